"""An option whose file cannot be used is named in the message, with the file: a command may have several."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.keys import keypairs
from tests.support.network.certificates import issue, key_of
from tests.support.network.loopback import Loopback, json_answer
from tests.support.program.processes import run_program

_GRANTS = ("--key", "KEY", "--insecure", "REGISTRY/app")
_APPROVE = ("grants", "approve", *_GRANTS)
_SERVE = ("keyprovider", "serve", "--provider", "local", "--keys", "DIR", "--listen", "127.0.0.1:0")
_TLS = ("--tls-cert", "CERT", "--tls-key", "KEY")
_ENCRYPT = ("image", "encrypt", "oci:nothing", "oci:none")
_BROKER = (*_ENCRYPT, "--recipient", "provider:attestation-agent", "--kbs", "https://127.0.0.1:1")
_ID = "0" * 32
COMMANDS = [
    (*_APPROVE, "--request", "FILE"),
    (*_APPROVE, "--all", "--name", "*", "--ca", "FILE"),
    (*_APPROVE, _ID, "--publisher", "FILE"),
    (*_APPROVE, _ID, "--password-file", "FILE"),
    ("grants", "approve", "--insecure", "REGISTRY/app", _ID, "--key", "FILE"),
    ("grants", "wrap-key", "--provider", "x", "none", "--key", "FILE"),
    ("grants", "wrap-key", "--provider", "x", "none", "--key", "KEY", "--password-file", "FILE"),
    ("grants", "approver", "--policy", "FILE"),
    ("grants", "list", *_GRANTS[2:], "--authfile", "FILE"),
    (*_SERVE, "--tls-key", "KEY", "--tls-cert", "FILE"),
    (*_SERVE, *_TLS, "--client-ca", "FILE"),
    (*_SERVE, *_TLS, "--client-ca", "CERT", "--client-policy", "FILE"),
    (*_ENCRYPT, "--recipient", "pgp:a@example.com", "--gpg-keyring", "FILE"),
    (*_ENCRYPT, "--recipient", "provider:grants:127.0.0.1:1/app", "--grants-owner", "FILE", "--sign-key", "KEY"),
    (*_ENCRYPT, "--recipient", "provider:grants:127.0.0.1:1/app", "--grants-owner", "PUBLIC", "--sign-key", "FILE"),
    ("image", "decrypt", "oci:nothing", "oci:none", "--key", "FILE"),
    ("image", "layerinfo", "oci:nothing", "--key", "KEY", "--dec-recipient", "FILE"),
]


def option_of(command: tuple[str, ...]) -> str:
    return command[command.index("FILE") - 1]


@pytest.fixture(scope="module")
def registry() -> Iterator[Loopback]:
    """A registry that wants a login."""
    with Loopback(lambda _: json_answer({}, 401)) as server:
        yield server


@pytest.fixture(scope="module")
def given(registry: Loopback, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    directory = tmp_path_factory.mktemp("given")
    certificate = issue("x").write(directory / "cert.pem")
    public = keypairs.generate(directory)["p256"].public
    (directory / "keys").mkdir()
    (directory / "keys/a").touch(0o600)
    (directory / "keys/a").write_bytes(bytes(32))
    (directory / "malformed").touch(0o600)
    (directory / "malformed").write_text("neither a key nor JSON\n")
    return {
        "KEY": str(key_of(certificate)),
        "PUBLIC": str(public),
        "CERT": str(certificate),
        "REGISTRY/app": f"127.0.0.1:{registry.port}/app",
        "DIR": str(directory / "keys"),
        "malformed": str(directory / "malformed"),
        "absent": str(directory / "absent"),
    }


@pytest.mark.parametrize("file", ["malformed", "absent"])
@pytest.mark.parametrize("command", COMMANDS, ids=[f"{each[0]} {each[1]} {option_of(each)}" for each in COMMANDS])
def test_an_option_is_named(
    command: tuple[str, ...], file: str, given: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (option_of(command), file) == ("--password-file", "malformed"):
        file = "DIR"  # whatever a file has is a password
    path = given[file]
    words = [given.get(word, path if word == "FILE" else word) for word in command]
    monkeypatch.chdir(tmp_path)
    ended = run_program(words, 60)
    errors = ended.stderr.decode()
    assert ended.returncode in (2, 5, 6, 7), ended
    assert f"error: {option_of(command)} " in errors
    assert path in errors
    assert errors.count("\n") <= 2, errors
