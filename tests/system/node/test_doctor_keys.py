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
from tests.support.keys.pgp_home import GnupgHome
from tests.support.keys.pkcs11_tokens import TokenStore, softhsm
from tests.support.keywrap.pkcs11_parts import write_config
from tests.support.node.doctor_node import KeysNode

if TYPE_CHECKING:
    from decoder.doctor.finding import Finding


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
    return [each for each in keys.check(KeysNode(directory)) if each.level != "ok"]


def test_a_key_alone_is_well(directory: Path) -> None:
    make_key(directory / "node.pem")
    (directory / "node.pem").chmod(0o600)
    assert examine(directory) == []
    assert list(sources.check(KeysNode(directory))) == []


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
    texts = [each.text for each in keys.check(KeysNode(directory))]
    assert texts[0] == "mode 0700"
    assert texts[1].startswith("'node.pem' (EC P-256, sha256:")
    assert "'node.crt' (certificate), valid until 2" in texts[2]
    expire(directory / "node.pem", directory / "node.crt")
    (finding,) = examine(directory)
    assert finding.level == "warning"
    assert " expired on " in finding.text
    (directory / "node.pem").unlink()
    (finding,) = examine(directory)
    assert "its private key is not in the directory" in finding.text
    (finding,) = sources.check(KeysNode(directory))
    assert finding.level == "error"


@pytest.mark.parametrize("text", ["keys go here", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_a_foreign_file_alone(text: str, directory: Path) -> None:
    (directory / "file").write_text(text)
    (finding,) = examine(directory)
    assert (finding.level, "'file' was skipped" in finding.text) == ("warning", True)
    (finding,) = sources.check(KeysNode(directory))
    assert finding.level == "error"
    assert "1 files there are not private keys" in finding.text


def test_a_pkcs11_key_without_its_module(directory: Path) -> None:
    (directory / "token.yaml").write_text("pkcs11:\n  uri: pkcs11:token=x;object=y?module-path=/nonexistent.so\n")
    (directory / "token.yaml").chmod(0o600)
    (finding,) = examine(directory)
    assert (finding.level, "(PKCS#11)" in finding.text) == ("error", True)


def test_a_pkcs11_key_with_its_module(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module is found as the decoder finds it; the token is left alone."""
    store = TokenStore(tmp_path)
    store.add_token("layers")
    store.add_key("layers", "node", "01", 2048)
    monkeypatch.setenv("OCICRYPT_CONFIG", str(write_config(tmp_path / "ocicrypt.conf", softhsm())))
    (directory / "token.yaml").touch(0o600)
    (directory / "token.yaml").write_bytes(store.yaml("token=layers;object=node"))
    found = [each for each in keys.check(KeysNode(directory)) if "(PKCS#11, module " in each.text]
    assert [each.level for each in found] == ["ok"]
    assert str(Path(softhsm()).resolve()) in found[0].text


def test_openpgp_keys(directory: Path) -> None:
    """As gpg exports them: one that opens, one whose passphrase is absent or wrong, one that cannot decrypt."""
    home, file = GnupgHome(), directory / "node.gpg"

    def look(data: bytes) -> list[Finding]:
        file.touch(0o600)
        file.write_bytes(data)
        return [each for each in keys.check(KeysNode(directory)) if not each.text.startswith("mode ")]

    try:
        home.make_key("open@example.com", "cv")
        home.make_key("closed@example.com", "cv", "right")
        home.run("--passphrase=", "--quick-gen-key", "signs@example.com", "ed25519", "sign", "never")
        (found,) = look(home.secret("open@example.com"))
        assert (found.level, found.text.endswith(", OpenPGP")) == ("ok", True), found
        closed = home.secret("closed@example.com", passphrase="right")
        passphrase = directory / "node.gpg.pass"
        for text in (None, "wrong\n", "right\n"):
            if text:
                passphrase.touch(0o600)
                passphrase.write_text(text)
            (found,) = look(closed)
            assert found.level == ("ok" if text == "right\n" else "error"), found
            if found.level == "error":
                assert "does not open" in found.text
                assert found.remedy == f"write the right passphrase into {passphrase}, then chmod 600 {passphrase}"
        found = look(home.secret("signs@example.com"))[0]
        assert (found.level, found.remedy) == ("error", "export a secret key that can decrypt")
    finally:
        home.close()


def test_a_damaged_key_and_a_damaged_certificate(directory: Path) -> None:
    make_key(directory / "node.pem")
    (directory / "node.pem").chmod(0o600)
    make_certificate(directory / "node.pem", directory / "node.crt", "30")
    whole = (directory / "node.crt").read_text().splitlines()
    (directory / "node.crt").write_text("\n".join([whole[0], *whole[2:]]) + "\n")  # a line was lost in the copy
    (finding,) = examine(directory)
    assert (finding.level, finding.remedy) == ("error", "replace it")
    assert "cannot be read" in finding.text
    (directory / "node.crt").unlink()
    key = (directory / "node.pem").read_text().splitlines()
    (directory / "node.pem").write_text("\n".join([*key[:2], *key[3:]]) + "\n")
    (finding,) = examine(directory)
    assert (finding.level, "does not open" in finding.text) == ("error", True), finding
    assert finding.remedy == f"run openssl pkey -noout -in {directory}/node.pem to see why"


def test_a_directory_of_another_owner(directory: Path) -> None:
    make_key(directory / "node.pem")
    (directory / "node.pem").chmod(0o600)
    os.chown(directory, 65534, 65534)
    (finding,) = examine(directory)
    assert (finding.level, finding.remedy) == ("error", f"chown root {directory}")


def test_a_file_in_the_place_of_the_directory(directory: Path) -> None:
    directory.rmdir()
    directory.write_text("")
    (finding,) = examine(directory)
    assert (finding.level, finding.text, finding.remedy) == ("error", "Not a directory", "name a directory")


def test_an_absent_directory(directory: Path) -> None:
    directory.rmdir()
    (finding,) = examine(directory)
    assert (finding.level, finding.remedy) == ("note", f"install -d -m 700 {directory}")
