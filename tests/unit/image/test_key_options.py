"""Options for keys and platforms that cannot be used, each with its reason; a password is in no message."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from decoder import limits
from tests.support.image.command import done, image, oci
from tests.support.keywrap.layers import rsa_key

if TYPE_CHECKING:
    from tests.support.image.images import Layout

PASSWORD = "correct-horse"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--key", "provider:"], "--key 'provider:' names no keyprovider"),
        (["--key", f"KEY:fd={PASSWORD}"], "fd= needs the number of a file descriptor"),
        (["--key", "KEY:fd=99"], "its password cannot be read: Bad file descriptor"),
        (["--key", "KEY:file=/nonexistent"], "its password cannot be read: No such file or directory"),
        (["--key", "KEY:file=LONG"], f"its password is longer than {limits.PASSWORD_BYTES} bytes"),
        (["--key", "/nonexistent"], "--key '/nonexistent': No such file or directory"),
        (["--key", "LONG"], f"larger than {limits.KEY_FILE_BYTES} bytes"),
        (["--key", "KEY", "--dec-recipient", "/nonexistent"], "--dec-recipient '/nonexistent': No such file"),
        (["--key", "KEY", "--platform", "linux/amd64", "--all-platforms"], "exclude each other"),
        ([], "no key was given: pass --key FILE or --key provider:NAME"),
    ],
)
def test_option(options: list[str], reason: str, small: Layout, target: Layout, key: list[str], tmp_path: Path) -> None:
    long = tmp_path / "long"
    long.write_bytes(b"x" * (max(limits.PASSWORD_BYTES, limits.KEY_FILE_BYTES) + 1))
    options = [option.replace("KEY", key[1]).replace("LONG", str(long)) for option in options]
    ended = image("decrypt", oci(small), oci(target), *options)
    assert (ended.status, ended.output) == (2, ""), ended.errors
    assert reason in ended.errors
    assert PASSWORD not in ended.errors
    assert not (target.directory / "index.json").exists()


def test_key_from_a_pipe_has_a_bound(small: Layout, target: Layout, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def write() -> None:
        with pipe.open("wb") as file:
            file.write(b"x" * (limits.KEY_FILE_BYTES + 1))

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    ended = image("decrypt", oci(small), oci(target), "--key", pipe)
    writer.join(60)
    assert (ended.status, f"larger than {limits.KEY_FILE_BYTES} bytes" in ended.errors) == (2, True), ended.errors


def test_keys_whose_password_is_missing(small: Layout, target: Layout, recipient: list[str], tmp_path: Path) -> None:
    done("encrypt", oci(small), oci(target), *recipient)
    locked = tmp_path / "key.pem"
    encryption = BestAvailableEncryption(PASSWORD.encode())
    locked.write_bytes(rsa_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    ended = image("check", oci(target), "--key", locked)
    assert ended.status == 4
    assert "it is encrypted, and no password was given: pass --key FILE:file=PASSWORDFILE" in ended.errors
