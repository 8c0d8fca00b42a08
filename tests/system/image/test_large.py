"""Large layers and many: memory, interruption, a full disk."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.image import layouts
from tests.support.image.command import SECONDS, blobs, done, files_below, oci, run
from tests.support.image.images import GZIP, Layout, digest_of
from tests.support.program import processes

if TYPE_CHECKING:
    from tests.support.keys.parties import Party

MIB = 1024 * 1024
LARGE_BYTES = 256 * MIB
MOST_MEMORY_KIB = 100 * 1024
POLL_SECONDS = 0.005


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """An image of a small layer and a large one, which takes no room on the disk."""
    layout = Layout(tmp_path_factory.mktemp("large"))
    digest, block = hashlib.sha256(), bytes(MIB)
    for _ in range(LARGE_BYTES // MIB):
        digest.update(block)
    small = layout.add(layouts.tar("small"), GZIP)
    path = layout.directory / "blobs/sha256" / digest.hexdigest()
    with path.open("wb") as file:
        file.truncate(LARGE_BYTES)
    layout.write_manifest(
        {"architecture": "amd64", "os": "linux"},
        [small, {"mediaType": GZIP, "digest": f"sha256:{digest.hexdigest()}", "size": LARGE_BYTES}],
    )
    return layout


@pytest.mark.parametrize("transport", ["oci", "oci-archive"])
def test_memory_does_not_depend_on_the_size_of_layers(
    transport: str, large: Layout, parties: dict[str, Party], tmp_path: Path
) -> None:
    party = parties["jwe"]
    encrypted, decrypted = (f"{transport}:{tmp_path / name}" for name in ("encrypted", "decrypted"))
    for arguments in (
        ["encrypt", oci(large), encrypted, "--recipient", party.recipient],
        ["decrypt", encrypted, decrypted, *party.ours],
    ):
        peak = tmp_path / "peak"
        run("/usr/bin/time", "--format=%M", "--output", peak, processes.PROGRAM, "image", *arguments)
        assert int(peak.read_text()) < MOST_MEMORY_KIB
    layers = done("layerinfo", decrypted, "--json").value["layers"]
    assert [each["digest"] for each in layers] == [each["digest"] for each in large.layers]


@pytest.mark.parametrize("transport", ["oci", "oci-archive"])
def test_a_killed_run_leaves_the_old_image_and_can_be_repeated(
    transport: str, large: Layout, gzipped: Layout, parties: dict[str, Party], tmp_path: Path
) -> None:
    party, directory = parties["jwe"], tmp_path / "out"
    directory.mkdir()
    place = f"{transport}:{directory / 'image'}"
    done("encrypt", oci(gzipped), place, "--recipient", party.recipient)
    before = files_below(directory)
    arguments = ["encrypt", oci(large), place, "--recipient", party.recipient]
    process = subprocess.Popen([processes.PROGRAM, "image", *arguments], stderr=subprocess.DEVNULL)
    try:
        _wait_until_written(process.pid, LARGE_BYTES // 4)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
    assert process.wait(SECONDS) == -signal.SIGKILL
    after = files_below(directory)
    assert {name: after[name] for name in before} == before
    assert all(name.startswith("image/blobs/sha256/") for name in set(after) - set(before))
    assert all(digest_of(after[name]) == f"sha256:{Path(name).name}" for name in set(after) - set(before))
    done("check", place, *party.ours, "--platform", "linux/amd64")
    done(*arguments)
    assert len(done("layerinfo", place, "--json").value["layers"]) == 2


def test_a_full_disk_is_reported_and_the_old_image_stays(
    large: Layout, gzipped: Layout, parties: dict[str, Party], tmp_path: Path
) -> None:
    script = """\
        mount -t tmpfs -o size=16m tmpfs "$1" && shift || exit 99
        "$@" encrypt "$SMALL" "$PLACE" --recipient "$RECIPIENT" || exit 98
        "$@" encrypt "$LARGE" "$PLACE" --recipient "$RECIPIENT"
        echo "status $?"
        "$@" check "$PLACE" --key "$KEY"
    """
    for transport in ("oci", "oci-archive"):
        environment = {
            "SMALL": oci(gzipped),
            "LARGE": oci(large),
            "PLACE": f"{transport}:{tmp_path}/image",
            "RECIPIENT": parties["jwe"].recipient,
            "KEY": parties["jwe"].ours[1],
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        }
        command = ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path), processes.PROGRAM, "image"]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.splitlines()[-2:] == ["status 7", "3 of 3 layers are encrypted; the keys open all 3"]
        assert "No space left on device" in ended.stderr


def test_21_layers(parties: dict[str, Party], target: Layout, tmp_path: Path) -> None:
    source, party = Layout(tmp_path / "source"), parties["jwe"]
    tars = [layouts.tar(f"{number}" * (1 + 1000 * number)) for number in range(21)]
    layouts.publish(source, layouts.add_image(source, "amd64", tars))
    before = done("layerinfo", oci(source)).output.splitlines()
    done("encrypt", oci(source), oci(target), "--recipient", party.recipient)
    after = done("layerinfo", oci(target), *party.ours).output.splitlines()
    assert len(before) == len(after) == 22
    for old, new, descriptor in zip(before[1:], after[1:], source.layers, strict=True):
        number, digest, platform, size = old.split()
        assert (digest, platform, size) == (descriptor["digest"], "linux/amd64", str(descriptor["size"]))
        words = new.split()
        assert (words[0], words[2:5], words[-1]) == (number, ["linux/amd64", size, "jwe"], "yes")
    back = Layout(tmp_path / "back")
    done("decrypt", oci(target), oci(back), *party.ours)
    assert blobs(back) == blobs(source)


def _wait_until_written(pid: int, count: int) -> None:
    deadline = time.monotonic() + SECONDS
    written = 0
    while written < count:
        assert time.monotonic() < deadline
        time.sleep(POLL_SECONDS)
        counters = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
        written = int(counters["wchar"])
