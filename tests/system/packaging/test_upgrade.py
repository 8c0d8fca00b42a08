"""From the previous version to this one and back, while a layer is being decrypted."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from decoder import __version__
from tests.support.keywrap import layers
from tests.support.packaging import clean_roots, packages
from tests.support.packaging.machines import KEYS, PROGRAM, Machine
from tests.support.program.processes import payload_bytes

if TYPE_CHECKING:
    from tests.support.packaging.packages import Built

_HALF = 4 * 1024 * 1024
_IN_FLIGHT = f"""
set -e
cd /layer
mkfifo pipe
if [ "$2" = agent ] && [ "$3" = downgrade ]; then
    {PROGRAM} --decryption-keys-path /{KEYS} 3<payload <ciphertext >/dev/null  # leaves an agent behind
elif [ "$2" = agent ]; then
    mkdir -p /run/ctd-decoder
    {PROGRAM} agent --listen /run/ctd-decoder/agent.sock &
    agent=$!
    while [ ! -S /run/ctd-decoder/agent.sock ]; do kill -0 $agent; sleep 0.05; done
fi
{PROGRAM} --decryption-keys-path /{KEYS} 3<payload <pipe >decrypted &
decoder=$!
exec 9>pipe
head -c {_HALF} ciphertext >&9
until [ -s decrypted ]; do kill -0 $decoder; sleep 0.05; done
dpkg --install "$1"
tail -c +{_HALF + 1} ciphertext >&9
exec 9>&-
wait $decoder
{PROGRAM} --decryption-keys-path /{KEYS} 3<payload <ciphertext >again
cmp decrypted again
if [ "$2" = agent ] && [ "$3" = upgrade ]; then kill $agent; wait $agent; fi  # the new client does not ask it
"""


@pytest.fixture(scope="module")
def large_layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layer that is longer than every buffer, so that the first half of it comes out before the second goes in."""
    directory = tmp_path_factory.mktemp("large")
    key = layers.rsa_key()
    layer = layers.encrypted(bytes(range(256)) * (2 * _HALF // 256))
    (directory / "ciphertext").write_bytes(layer.ciphertext)
    (directory / "plaintext").write_bytes(layer.plaintext)
    (directory / "payload").write_bytes(payload_bytes(layer.descriptor, None))
    (directory / "key.pem").write_bytes(layers.pem(key))
    return directory


@pytest.mark.parametrize("by", ["program", "agent"])
@pytest.mark.parametrize("direction", ["upgrade", "downgrade"])
def test_a_layer_in_flight_is_decrypted_whole(
    direction: str, by: str, built: Built, large_layer: Path, layer_files: Path, tmp_path: Path
) -> None:
    machine = Machine(clean_roots.copy("bookworm", tmp_path))
    old, new = packages.previous().find("ctd-decoder_*.deb"), built.find("ctd-decoder_*.deb")
    first, second = (old, new) if direction == "upgrade" else (new, old)
    machine.run("dpkg", "--install", machine.add(first))
    shutil.copytree(large_layer, machine.root / "layer")
    shutil.copy(large_layer / "key.pem", machine.root / KEYS / "own.pem")
    machine.run("/bin/sh", "-c", _IN_FLIGHT, "sh", machine.add(second), by, direction)
    assert (machine.root / "layer/decrypted").read_bytes() == (large_layer / "plaintext").read_bytes()
    version = second.name.split("_")[1].partition("-")[0]
    assert machine.run(PROGRAM, "--version") == f"ctd-decoder {version}\n"
    if direction == "downgrade":  # to one that this version's doctor, of the image or a checkout, would find
        assert f"version '{version}'; this is version {__version__}" in _other_version(machine, new)
    (machine.root / KEYS / "own.pem").unlink()
    shutil.rmtree(machine.root / "layer")
    assert machine.decrypt(layer_files)


def _other_version(machine: Machine, package: Path) -> str:
    """Return what the doctor of a package that is only unpacked finds out about the program of the installed one."""
    apart = machine.root / "opt/apart"
    subprocess.run(["dpkg-deb", "--extract", package, apart], check=True, timeout=120)
    program = "/opt/apart/usr/lib/ctd-decoder/bin/ctd-decoder"
    report = json.loads(machine.run(program, "doctor", "--json", expect=1, sees_others=False))
    shutil.rmtree(apart)
    (finding,) = [each for each in report["findings"] if each["check"] == "program"]
    assert finding["level"] == "warning"
    return str(finding["text"])
