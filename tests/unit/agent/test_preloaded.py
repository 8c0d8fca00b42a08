"""What layers need was imported before they come: no worker imports it again for each of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support.keywrap.layers import encrypted, pem, rsa_key
from tests.support.keywrap.vectors import CASES, NAMES, run_case
from tests.support.node.store_parts import Store
from tests.support.program.processes import run_decoder
from tests.support.provider.client_parts import NAME, PLAINTEXT, configuration, decrypt, turning_command

# The zygote's part, the worker's, and on standard error what the latter imported.
_PROGRAM = """\
#!{python}
import sys
from decoder import __main__ as program
from importlib import import_module
from decoder.agent.processes import preloading
from decoder.agent.processes.rehearsal import Rehearsal
for name in (*preloading.PRELOADED, *preloading.ON_DEMAND):
    import_module(name)
Rehearsal().play()
before = set(sys.modules)
status = program.decode(sys.argv[1:])
print(*sorted(set(sys.modules) - before), end="", file=sys.stderr)
sys.exit(status)
"""


@pytest.fixture
def program(tmp_path: Path) -> str:
    script = tmp_path / "bin" / "program"
    script.parent.mkdir()
    script.write_text(_PROGRAM.format(python=sys.executable))
    script.chmod(0o755)
    return str(script)


@pytest.mark.parametrize(
    "name",
    ["jwe-rsa2048-keydir-rsa2048-pkcs1.pem", "jwe-prime256v1-pkcs8", "pkcs7-gcm", "pgp-passphrase"],
)
def test_local_keys(name: str, program: str, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    result = run_case(CASES[NAMES.index(name)], keys, program=program)
    assert (result.status, result.errors) == (0, "")


def test_a_command(program: str, tmp_path: Path) -> None:
    config = configuration(tmp_path, {NAME: turning_command(tmp_path).entry})
    assert decrypt(config, program=program) == (0, PLAINTEXT, "")


def test_a_look_up(program: str, tmp_path: Path) -> None:
    """As containerd starts it by default: no payload, and a directory with the node's keys."""
    store, layer, keys = Store(tmp_path / "root"), encrypted(PLAINTEXT), tmp_path / "keys"
    store.add_image(layer)
    keys.mkdir(0o700)
    (keys / "key.pem").touch(0o600)
    (keys / "key.pem").write_bytes(pem(rsa_key()))
    arguments = ["--content-store", str(store.root), "--decryption-keys-path", str(keys)]
    environment = {"STREAM_PROCESSOR_MEDIATYPE": layer.descriptor["mediaType"]}
    result = run_decoder(None, layer.ciphertext, *arguments, program=program, environment=environment)
    assert result == (0, PLAINTEXT, "")
