"""PKCS#11: configuration, and wrapped keys that are refused before any token is asked."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwcrypto.jwk import JWK

from decoder import limits
from decoder.errors import KeyFileError, WrappedKeyError
from decoder.keywrap import pkcs11
from decoder.keywrap.pkcs11 import config as pkcs11_config
from decoder.keywrap.pkcs11 import keyfile as pkcs11_keyfile
from decoder.keywrap.pkcs11 import token as pkcs11_token
from decoder.keywrap.pkcs11 import uri as pkcs11_uri
from decoder.keywrap.recipient import RecipientRules
from tests.support.keys.pkcs11_tokens import PIN, softhsm
from tests.support.keywrap.layers import public_pem, rsa_key
from tests.support.keywrap.pkcs11_parts import SMALL, recipient, unwrap, wrapped_json, write_config


@pytest.fixture(autouse=True)
def _fresh_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each test is a run of its own, on a node that allows SoftHSM's module."""
    monkeypatch.delenv("OCICRYPT_OAEP_HASHALG", raising=False)
    monkeypatch.setenv("OCICRYPT_CONFIG", str(write_config(tmp_path / "node.conf", softhsm())))
    monkeypatch.setattr(pkcs11_token, "_wrong_pins", set())


def test_configuration_search_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert f"{pkcs11_config.SYSTEM_DIRECTORY}/{pkcs11_config.FILE_NAME}" == "/etc/ocicrypt.conf"
    places = {"XDG_CONFIG_HOME": tmp_path / "xdg", "HOME": tmp_path / "home", "system": tmp_path / "etc"}
    monkeypatch.setattr(pkcs11_config, "SYSTEM_DIRECTORY", str(places["system"]))
    files = []
    for name in ("XDG_CONFIG_HOME", "HOME", "system"):
        directory = places[name] / ".config" if name == "HOME" else places[name]
        directory.mkdir(parents=True)
        files.append(write_config(directory / "ocicrypt.conf", f"/{name}/"))
        if name != "system":
            monkeypatch.setenv(name, str(places[name]))
    named = write_config(tmp_path / "named.conf", "/named/")
    monkeypatch.setenv("OCICRYPT_CONFIG", str(named))
    assert pkcs11_config.node_config().allowed_module_paths == ("/named/",)
    assert pkcs11_config.applicable_config([b"allowed-module-paths: [/payload/]"]) == ((), ("/payload/",))
    monkeypatch.setenv("OCICRYPT_CONFIG", "internal")
    assert pkcs11_config.node_config().allowed_module_paths == (
        *("/usr/lib64/pkcs11/", "/usr/lib/pkcs11/", "/usr/local/lib/pkcs11/", "/usr/lib/softhsm/"),
        f"/usr/lib/{os.uname().machine}-linux-gnu/",
    )
    monkeypatch.delenv("OCICRYPT_CONFIG")
    for file, name in zip(files, ("XDG_CONFIG_HOME", "HOME", "system"), strict=True):
        assert pkcs11_config.node_config().allowed_module_paths == (f"/{name}/",)
        file.unlink()
    assert pkcs11_config.node_config() == ((), ())


def test_key_files_show_no_pin() -> None:
    uri = f"pkcs11:token=a;id=%01?pin-value={PIN}&module-name=softhsm2"
    key_file = pkcs11_keyfile.parse_key_file(json.dumps({"pkcs11": {"uri": uri}}).encode())
    assert pkcs11_keyfile.read_pin(key_file.uri) == PIN
    assert PIN not in repr(key_file)
    assert pkcs11_uri.parse_uri(uri) == key_file.uri
    for broken in (f"pkcs11:?pin-value={PIN}%", f"pkcs11:?pin-value={PIN}&pin-value=1", f"pkcs:?pin-value={PIN}"):
        with pytest.raises(KeyFileError) as caught:
            pkcs11_uri.parse_uri(broken)
        assert PIN not in str(caught.value)


@pytest.mark.parametrize(
    "wrapped",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"recipients":null}',
        b'{"recipients":{}}',
        b'{"recipients":[null]}',
        b'{"recipients":[[]]}',
        b"[" * 100_000,
        wrapped_json(recipient(bytes(SMALL)), version=1),
        wrapped_json(recipient(bytes(SMALL)), version=False),
        wrapped_json(recipient(bytes(SMALL)), version="0"),
        wrapped_json(recipient(bytes(SMALL), version=1)),
        wrapped_json(recipient(bytes(SMALL), "md5")),
        wrapped_json(recipient(bytes(SMALL), "SHA1")),
        wrapped_json(recipient(b"")),
        wrapped_json(recipient(bytes(127))),
        wrapped_json(recipient(bytes(limits.PKCS11_BLOB_BYTES + 1))),
        wrapped_json({"version": 0, "blob": "*" * 344}),
        wrapped_json({"version": 0, "blob": 7}),
        wrapped_json(*[recipient(bytes(SMALL))] * (limits.PKCS11_RECIPIENTS + 1)),
        wrapped_json(recipient(bytes(SMALL)), padding="x" * limits.PKCS11_BYTES),
    ],
)
def test_malformed_wrapped_keys_are_refused_before_any_key(wrapped: bytes) -> None:
    with pytest.raises(WrappedKeyError):
        unwrap(wrapped, b"not looked at")


def test_what_was_wrapped_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing leaves that `unwrap` would not read: too many recipients, or a share without the size of its key."""
    public = public_pem(rsa_key())
    with pytest.raises(WrappedKeyError, match="more than 64 recipients"):
        pkcs11.wrap(b"options", [public] * (limits.PKCS11_RECIPIENTS + 1))
    encrypt = pkcs11._encrypt
    monkeypatch.setattr(pkcs11, "_encrypt", lambda options, key, name: encrypt(options, key, name)[:-1])
    with pytest.raises(KeyFileError, match="could not open what was wrapped"):
        pkcs11.wrap(b"options", [public])


@pytest.mark.parametrize("form", ["{}", '{{"keys": [{}]}}'])
def test_a_jwk_is_a_public_key_and_no_key_file(form: str, tmp_path: Path) -> None:
    path = tmp_path / "key.jwk"
    path.write_text(form.format(JWK.from_pyca(rsa_key().public_key()).export()))
    (spki,) = pkcs11.read_recipient(str(path), RecipientRules(bytes))
    assert spki == rsa_key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    path.write_text('{"pkcs11": {"uri": "pkcs11:token=t"}, "kind": "other"}')
    assert pkcs11.is_key_file(path.read_bytes())
    assert pkcs11.is_key_file(b'{"pkcs11": {"uri": "pkcs11:token=t"}')


def test_keeps_some_recipients() -> None:
    wrapped = wrapped_json(*(recipient(bytes([number]) * SMALL) for number in range(3)), other="x")
    left = json.loads(pkcs11.keep(wrapped, [0, 2]))
    assert left == {"version": 0, "other": "x", "recipients": [recipient(bytes([number]) * SMALL) for number in (0, 2)]}


def key_file(module: Path, more: str = "") -> bytes:
    return json.dumps({"pkcs11": {"uri": f"pkcs11:token=t;object=o?module-path={module}{more}"}}).encode()


def test_a_key_file_without_a_pin(tmp_path: Path) -> None:
    module = tmp_path / "module.so"
    module.touch()
    with pytest.raises(KeyFileError, match=r"^it has no PIN"):
        pkcs11.find_key(key_file(module), pkcs11_config.Pkcs11Config((), (str(module),)))


def test_without_the_yaml_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(WrappedKeyError, match=r"^the Python module yaml is not installed: "):
        pkcs11_keyfile.parse_key_file(b"{}")


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("", "PKCS#11 needs a child process, but this Python does not know the path of its interpreter"),
        ("/absent/python", "PKCS#11 needs a child process: No such file or directory"),
        ("exit 3", "the module '{module}' ended its process without an answer"),
        ("kill -SEGV $$", "the module '{module}' crashed (SIGSEGV)"),
        (f"echo '{json.dumps({'missing': True})}'", "the Python module pkcs11 is not installed: "),
        (
            f"echo '{json.dumps({'modulus': 'f1', 'exponent': '2', 'sha256': True})}'",
            "the public key on the token is not",
        ),
    ],
)
def test_processes_that_give_no_key(program: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script takes the place of the program, which packages start with an option."""
    script, module = tmp_path / "ctd-decoder", tmp_path / "module.so"
    script.write_text(f'#!/bin/sh\n[ "$*" = --pkcs11-child ] || exit 99\n{program}\n')
    script.chmod(0o700)
    module.touch()
    monkeypatch.setattr(sys, "executable", program if program.startswith("/") or not program else str(script))
    monkeypatch.setenv("OCICRYPT_CONFIG", str(write_config(tmp_path / "allowed.conf", str(module))))
    with pytest.raises((KeyFileError, WrappedKeyError)) as caught:
        pkcs11.wrap(b"options", [key_file(module)])
    assert str(caught.value).startswith(error.format(module=module))
