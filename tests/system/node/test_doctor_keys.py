"""`ctd-decoder doctor` and the files of a keys directory, made by openssl as people make them."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from decoder.doctor.checks import keys, sources
from decoder.doctor.host import Host

if TYPE_CHECKING:
    from decoder.doctor.finding import Finding


class Node(Host):
    """A node with one keys directory, and no keyprovider."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.keys_directories = [str(directory)]
        self.keyprovider_files = {}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "keys"
    made.mkdir(mode=0o700)
    return made


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)


def make_key(path: Path, *options: str) -> None:
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", *options, "-out", path)


def make_certificate(key: Path, path: Path, days: str) -> None:
    openssl("req", "-x509", "-key", key, "-subj", "/CN=node", "-days", days, "-out", path)


def expire(key: Path, path: Path) -> None:
    """Make a certificate that was valid a year ago, which openssl's `req` does not do."""
    loaded = load_pem_private_key(key.read_bytes(), None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "node")])
    start = datetime.now(UTC) - timedelta(days=400)
    builder = x509.CertificateBuilder(name, name, loaded.public_key(), 1, start, start + timedelta(days=30))
    path.write_bytes(builder.sign(loaded, hashes.SHA256()).public_bytes(Encoding.PEM))


def examine(directory: Path) -> list[Finding]:
    return [each for each in keys.check(Node(directory)) if each.level != "ok"]


def test_a_key_alone_is_well(directory: Path) -> None:
    make_key(directory / "node.pem")
    (directory / "node.pem").chmod(0o600)
    assert examine(directory) == []
    assert list(sources.check(Node(directory))) == []


def test_a_key_that_others_can_read(directory: Path) -> None:
    make_key(directory / "node.pem")
    (directory / "node.pem").chmod(0o644)
    (finding,) = examine(directory)
    assert (finding.level, finding.remedy) == ("note", f"chmod 600 {directory}/node.pem")
    directory.chmod(0o755)
    levels = {finding.text.split(":")[0]: finding for finding in examine(directory)}
    assert levels[f"others can read the key {directory}/node.pem"].level == "error"
    assert levels["its mode is 0755"].remedy == f"chmod 700 {directory}"


def test_a_missing_and_a_wrong_passphrase(directory: Path) -> None:
    make_key(directory / "node.pem", "-aes256", "-pass", "pass:right")
    (directory / "node.pem").chmod(0o600)
    passphrase = directory / "node.pem.pass"
    (finding,) = examine(directory)
    assert finding.level == "error"
    assert finding.remedy == f"write its passphrase into {passphrase}, then chmod 600 {passphrase}"
    passphrase.write_text("wrong\n")
    passphrase.chmod(0o600)
    (finding,) = examine(directory)
    assert finding.remedy == f"correct the passphrase in {passphrase}, then chmod 600 {passphrase}"
    passphrase.write_text("right\n")
    assert examine(directory) == []
    passphrase.chmod(0o640)
    findings = examine(directory)
    assert any(each.level == "error" and each.remedy == f"chmod 600 {passphrase}" for each in findings), findings
    assert all("right" not in f"{each}".replace("the right", "") for each in findings)


def test_a_key_of_another_owner(directory: Path) -> None:
    make_key(directory / "node.pem")
    (directory / "node.pem").chmod(0o600)
    os.chown(directory / "node.pem", 65534, 65534)
    (finding,) = examine(directory)
    assert (finding.level, finding.remedy) == ("error", f"chown root {directory}/node.pem")


def test_certificates(directory: Path) -> None:
    make_key(directory / "node.pem")
    make_certificate(directory / "node.pem", directory / "node.crt", "30")
    (directory / "node.pem").chmod(0o600)
    assert examine(directory) == []
    expire(directory / "node.pem", directory / "node.crt")
    (finding,) = examine(directory)
    assert finding.level == "warning"
    assert " expired on " in finding.text
    (directory / "node.pem").unlink()
    (finding,) = examine(directory)
    assert "its private key is not in the directory" in finding.text
    (finding,) = sources.check(Node(directory))
    assert finding.level == "error"


@pytest.mark.parametrize("text", ["keys go here", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_a_foreign_file_alone(text: str, directory: Path) -> None:
    (directory / "file").write_text(text)
    (finding,) = examine(directory)
    assert (finding.level, "'file' was skipped" in finding.text) == ("warning", True)
    (finding,) = sources.check(Node(directory))
    assert finding.level == "error"
    assert "1 files there are not private keys" in finding.text


def test_a_pkcs11_key_without_its_module(directory: Path) -> None:
    (directory / "token.yaml").write_text("pkcs11:\n  uri: pkcs11:token=x;object=y?module-path=/nonexistent.so\n")
    (directory / "token.yaml").chmod(0o600)
    (finding,) = examine(directory)
    assert (finding.level, "(PKCS#11)" in finding.text) == ("error", True)


def test_an_absent_directory(directory: Path) -> None:
    directory.rmdir()
    (finding,) = examine(directory)
    assert (finding.level, finding.remedy) == ("note", f"install -d -m 700 {directory}")
