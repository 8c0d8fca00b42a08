"""The keys directory and the key lists of a payload."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from decoder import limits
from decoder.errors import KeyFileError, NoPasswordError, PayloadError
from decoder.keys.directory import add_directory
from decoder.keys.keyring import Keyring
from decoder.keywrap.pgp.secretkey import find_secret_keys, unlock
from tests.support.keywrap.layers import ec_key, encrypted, pem, public_pem, rsa_key
from tests.support.program.onelayer import run_layer
from tests.support.program.processes import ROOT

RSA = pem(rsa_key())

EC = pem(ec_key())


def found(directory: Path) -> Keyring:
    keys = Keyring()
    add_directory(keys, str(directory))
    return keys


def names(keys: Keyring) -> list[str]:
    return [key.name for key in keys.private]


def test_absent_directory_counts_as_empty(tmp_path: Path) -> None:
    keys = found(tmp_path / "absent")
    assert names(keys) == []
    assert (keys.notes.warnings, keys.notes.remarks) == ([], [f"the keys directory '{tmp_path}/absent' does not exist"])


def test_files_come_in_order_before_subdirectories(tmp_path: Path) -> None:
    for name in ("b.pem", "a/z.pem", "a.pem", "c/d/e.pem", "Z.pem"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(RSA)
    assert names(found(tmp_path)) == ["'Z.pem'", "'a.pem'", "'b.pem'", "'a/z.pem'", "'c/d/e.pem'"]


def test_many_files_that_are_no_keys_take_a_few_lines(tmp_path: Path) -> None:
    """Whoever has 200 of them would find nothing else in the journal."""
    for number in range(200):
        (tmp_path / f"{number:03}{'x' * 200}").write_text("notes")
    (tmp_path / "key.pem").write_bytes(RSA)
    keys = found(tmp_path)
    keys.notes.warn("the configuration is odd")
    assert len(keys.notes.warnings) == 201
    first, *others, last = keys.notes.brief_warnings
    assert first == "the configuration is odd"
    assert [each[:4] for each in others] == [f"'{number:03}" for number in range(limits.REPORTED_FILES)]
    assert last == "and 192 more warnings about files (ctd-decoder doctor lists them)"
    result = run_layer(encrypted(b"a layer"), "--decryption-keys-path", str(tmp_path))
    assert result.plaintext == b"a layer"
    assert len(result.errors) < 3000


def test_a_file_in_its_place_is_not_an_empty_directory(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(RSA)
    assert found(file).notes.remarks == [f"the keys directory '{file}' cannot be read: Not a directory"]
    assert found(file).notes.warnings == [f"the directory '{file}' was skipped: Not a directory"]


def test_what_is_no_key_leaves_a_note(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("put keys here")
    (tmp_path / "empty").touch()
    (tmp_path / "key.pub").write_bytes(public_pem(rsa_key()))
    (tmp_path / "large").write_bytes(b"x" * (limits.KEY_FILE_BYTES + 1))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "key.pem").write_bytes(RSA)
    keys = found(tmp_path)
    assert names(keys) == ["'key.pem'"]
    assert [(note.split()[0], note.partition(": ")[2][:20]) for note in keys.notes.warnings] == [
        ("'dangling'", "No such file or dire"),
        ("'README'", "it holds no key of a"),
        ("'empty'", "it is empty"),
        ("'key.pub'", "it holds a public ke"),
        ("'large'", "it is larger than 10"),
        ("'pipe'", "it is not a regular "),
    ]


def test_kubernetes_secret_layout(tmp_path: Path) -> None:
    """A Secret volume: ..data points to a directory with a time in its name, each key to ..data/NAME."""
    version = tmp_path / "..2026_01_01_00_00_00.123"
    version.mkdir()
    (version / "tls.pem").write_bytes(RSA)
    (tmp_path / "..data").symlink_to(version.name)
    (tmp_path / "tls.pem").symlink_to("..data/tls.pem")
    keys = found(tmp_path)
    assert (names(keys), keys.notes.warnings) == (["'tls.pem'"], [])


def test_links_that_lead_outside_are_not_followed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "keys", tmp_path / "keys-elsewhere"
    inside.mkdir()
    outside.mkdir()
    (outside / "key.pem").write_bytes(RSA)
    (inside / "file").symlink_to(outside / "key.pem")
    (inside / "directory").symlink_to(outside)
    keys = found(inside)
    assert names(keys) == []
    assert [note.partition(": ")[2] for note in keys.notes.warnings] == ["the link leads out of the keys directory"] * 2


def test_the_directory_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/key.pem").write_bytes(RSA)
    (tmp_path / "real/again.pem").symlink_to("key.pem")
    (tmp_path / "link").symlink_to("real")
    assert names(found(tmp_path / "link")) == ["'again.pem'"]


def test_link_loops_end(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/loop").symlink_to("..")
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "a/key.pem").write_bytes(RSA)
    assert names(found(tmp_path)) == ["'a/key.pem'"]


def test_a_key_without_a_password_among_the_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/key.pem").write_bytes(RSA)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    keys = found(tmp_path / "keys")
    assert (names(keys), keys.notes.warnings) == (["'key.pem'"], [])


def test_keys_whose_password_is_missing(tmp_path: Path) -> None:
    locked = BestAvailableEncryption(b"secret")
    (tmp_path / "key.pem").write_bytes(rsa_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
    shutil.copy(ROOT / "tests/vectors/keys/pgp-pass.gpg", tmp_path / "pgp.gpg")
    keys = found(tmp_path)
    with pytest.raises(NoPasswordError) as raised:
        keys.private[0].load()
    reason = f"it is encrypted, and no password was given: write it to '{tmp_path}/key.pem.pass'"
    assert str(raised.value) == reason
    result = run_layer(encrypted(b"a layer"), "--decryption-keys-path", str(tmp_path), parameters={})
    assert (result.status, reason in result.errors) == (4, True), result.errors
    with pytest.raises(NoPasswordError) as raised:
        unlock(find_secret_keys(keys.pgp[0])[0])
    reason = "it is protected by a passphrase, and none was given"
    assert str(raised.value) == f"{reason}: write it to '{tmp_path}/pgp.gpg.pass'"


def test_limits_of_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        (tmp_path / f"{number}.pem").write_bytes(RSA)
    monkeypatch.setattr(limits, "KEYS_DIRECTORY_FILES", 3)
    assert len(found(tmp_path).private) == 3
    assert "more than 3 files" in found(tmp_path).notes.warnings[-1]
    monkeypatch.setattr(limits, "KEYS_DIRECTORY_FILES", 100)
    monkeypatch.setattr(limits, "KEYS_DIRECTORY_BYTES", len(RSA))
    assert len(found(tmp_path).private) == 2
    monkeypatch.undo()
    deep = tmp_path / "/".join("d" * (limits.KEYS_DIRECTORY_DEPTH + 2))
    deep.mkdir(parents=True)
    assert "nested too deeply" in found(tmp_path).notes.warnings[-1]


def test_several_keys_in_one_file(tmp_path: Path) -> None:
    (tmp_path / "both.pem").write_bytes(b"comment\n" + RSA + public_pem(rsa_key()) + EC)
    keys = found(tmp_path)
    assert names(keys) == ["'both.pem'#1", "'both.pem'#3"]
    assert [type(key.load()) for key in keys.private] == [type(rsa_key()), type(ec_key())]


def test_parameters() -> None:
    keys = Keyring()
    keys.add_parameters({"privkeys": [RSA, b"nonsense", EC], "privkeys-passwords": [b"", b""]})
    assert names(keys) == ["privkeys[0]", "privkeys[2]"]
    assert keys.notes.warnings == ["privkeys[1] was skipped: it holds no key of a known form"]
    with pytest.raises(PayloadError, match="1 privkeys but 2 privkeys-passwords"):
        Keyring().add_parameters({"privkeys": [RSA], "privkeys-passwords": [b"", b""]})
    Keyring().add_parameters({"gpg-privatekeys": [], "gpg-privatekeys-passwords": [b"more"]})


def test_a_key_that_does_not_parse_is_parsed_once() -> None:
    keys = Keyring()
    keys.add("k", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    for _ in range(2):
        with pytest.raises(KeyFileError, match="cannot be parsed"):
            keys.private[0].load()
    assert keys.private[0].describe() == "k"
