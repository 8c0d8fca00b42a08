"""Keys and passphrases that others can read or change: the decoder uses them and warns, and so does `doctor`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from decoder.doctor.checks import keys as doctor
from tests.support.keywrap.layers import encrypted, pem, rsa_key
from tests.support.node.doctor_node import KeysNode
from tests.support.program.onelayer import run_layer

PLAINTEXT = b"a layer"
SOMEBODY = 4711
CERTIFICATE = Path(__file__).parents[2] / "vectors/keys/cert1.pem"


@pytest.fixture
def directory() -> Iterator[Path]:
    """A keys directory that others can enter; pytest's own directories are closed to them."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        (Path(name) / "key.pem").write_bytes(pem(rsa_key()))
        (Path(name) / "key.pem").chmod(0o600)
        (Path(name) / "cert.pem").write_bytes(CERTIFICATE.read_bytes())  # is for everybody
        yield Path(name)


def warnings(directory: Path) -> str:
    """Decrypt a layer with the key there; return what was printed."""
    result = run_layer(encrypted(PLAINTEXT), "--decryption-keys-path", str(directory), parameters={})
    assert (result.status, result.plaintext) == (0, PLAINTEXT), result.errors
    return result.errors


def findings(directory: Path) -> list[str]:
    return [finding.text for finding in doctor.check(KeysNode(directory)) if finding.level in ("warning", "error")]


def test_a_key_that_every_user_can_read(directory: Path) -> None:
    assert warnings(directory) == ""
    (directory / "key.pem").chmod(0o644)
    expected = "'key.pem' can be read by every user of this machine (mode 0644): chmod 600"
    assert warnings(directory) == f"ctd-decoder: warning: {expected}\n"
    assert f"others can read the key {directory}/key.pem: its mode is 0644" in findings(directory)
    directory.chmod(0o700)  # now nobody else gets at it
    assert warnings(directory) == ""


def test_a_link_to_a_key_that_every_user_can_read(directory: Path) -> None:
    """As Kubernetes mounts Secrets."""
    (directory / "..data").mkdir()
    (directory / "key.pem").rename(directory / "..data/key.pem")
    (directory / "key.pem").symlink_to("..data/key.pem")
    (directory / "..data/key.pem").chmod(0o644)
    assert "can be read by every user" in warnings(directory)
    (directory / "..data").chmod(0o700)
    assert warnings(directory) == ""


def test_a_key_of_another_user(directory: Path) -> None:
    os.chown(directory / "key.pem", SOMEBODY, SOMEBODY)
    expected = f"'key.pem' belongs to the user {SOMEBODY}, who can change it: chown"
    assert warnings(directory) == f"ctd-decoder: warning: {expected}\n"
    assert f"{directory}/key.pem belongs to the user {SOMEBODY}" in findings(directory)


def test_a_passphrase_of_another_user(directory: Path) -> None:
    encryption = BestAvailableEncryption(b"a passphrase")
    (directory / "key.pem").write_bytes(rsa_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    passphrase = directory / "key.pem.pass"
    passphrase.write_text("a passphrase\n")
    passphrase.chmod(0o600)
    assert warnings(directory) == ""
    os.chown(passphrase, SOMEBODY, SOMEBODY)
    expected = f"'key.pem.pass' belongs to the user {SOMEBODY}, who can change it: chown"
    assert warnings(directory) == f"ctd-decoder: warning: {expected}\n"
    assert f"{passphrase} belongs to the user {SOMEBODY}" in findings(directory)
