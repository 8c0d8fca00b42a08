"""Every form in which people keep private keys, made by the tools that people use."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest
from jwcrypto.jwk import JWK

from decoder.errors import KeyFileError
from decoder.keys.directory import add_directory
from decoder.keys.file import recognise
from decoder.keys.keyring import Keyring
from decoder.keys.privatekey import fingerprint
from tests.support.keywrap.layers import ec_key, pem, rsa_key
from tests.support.program.processes import ROOT

PASSWORD = b"correct horse"


def sh(folder: Path, command: str) -> None:
    """Run a shell command in a folder that holds rsa.pem, ec.pem and cert.pem."""
    subprocess.run(["/bin/sh", "-ec", command], cwd=folder, check=True, timeout=60, capture_output=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rsa.pem").write_bytes(pem(rsa_key()))
    (tmp_path / "ec.pem").write_bytes(pem(ec_key()))
    sh(tmp_path, "openssl req -x509 -new -key rsa.pem -subj /CN=test -days 2 -out cert.pem")
    return tmp_path


PLAIN = {
    "PKCS#8 PEM": "cp rsa.pem out",
    "PKCS#1 PEM": "openssl rsa -in rsa.pem -traditional -out out",
    "PKCS#8 DER": "openssl pkcs8 -topk8 -nocrypt -in rsa.pem -outform der -out out",
    "PKCS#1 DER": "openssl rsa -in rsa.pem -traditional -outform der -out out",
    "SEC1 PEM": "openssl ec -in ec.pem -out out",
    "SEC1 PEM with parameters": "(openssl ecparam -name prime256v1; openssl ec -in ec.pem) > out",
    "SEC1 DER": "openssl ec -in ec.pem -outform der -out out",
    "EC PKCS#8 DER": "openssl pkcs8 -topk8 -nocrypt -in ec.pem -outform der -out out",
    "OpenSSH RSA": "cp rsa.pem out; chmod 600 out; ssh-keygen -p -N '' -f out",
    "OpenSSH EC": "cp ec.pem out; chmod 600 out; ssh-keygen -p -N '' -f out",
    "PKCS#12 without password": "openssl pkcs12 -export -inkey rsa.pem -in cert.pem -passout pass: -out out",
    "certificate and key": "cat cert.pem rsa.pem > out",
    "key and certificate": "cat rsa.pem cert.pem > out",
    "with text around": "(echo Bag Attributes; cat rsa.pem; echo end) > out",
    "with CRLF": "sed 's/$/\\r/' rsa.pem > out",
}


ENCRYPTED = {
    f"legacy PEM {cipher}": f"openssl rsa -in rsa.pem -traditional -{cipher} -passout file:password -out out"
    for cipher in ("aes128", "aes192", "aes256", "des3")
} | {
    "SEC1 legacy PEM": "openssl ec -in ec.pem -aes192 -passout file:password -out out",
    "PKCS#8 PEM": "openssl pkcs8 -topk8 -in rsa.pem -passout file:password -out out",
    "PKCS#8 DER": "openssl pkcs8 -topk8 -in rsa.pem -passout file:password -outform der -out out",
    "PKCS#8 scrypt": "openssl pkcs8 -topk8 -scrypt -in ec.pem -passout file:password -out out",
    "PKCS#12": "openssl pkcs12 -export -inkey rsa.pem -in cert.pem -passout file:password -out out",
    "OpenSSH": 'cp rsa.pem out; chmod 600 out; ssh-keygen -p -N "$(cat password)" -f out',
}


@pytest.mark.parametrize("command", PLAIN.values(), ids=PLAIN)
def test_reads_every_form(folder: Path, command: str) -> None:
    sh(folder, command)
    for password in (b"", PASSWORD):
        keys = recognise("out", (folder / "out").read_bytes(), password).private
        assert len(keys) == 1
        assert fingerprint(keys[0].load()) in (fingerprint(rsa_key()), fingerprint(ec_key()))


@pytest.mark.parametrize("command", ENCRYPTED.values(), ids=ENCRYPTED)
def test_reads_every_encrypted_form(folder: Path, command: str) -> None:
    (folder / "password").write_bytes(PASSWORD)
    sh(folder, command)
    data = (folder / "out").read_bytes()
    assert fingerprint(recognise("out", data, PASSWORD).private[0].load()) in (
        fingerprint(rsa_key()),
        fingerprint(ec_key()),
    )
    with pytest.raises(KeyFileError, match="password"):
        recognise("out", data, b"").private[0].load()
    with pytest.raises(KeyFileError, match="the password does not open it"):
        recognise("out", data, b"wrong").private[0].load()


def test_sorts_certificates_openpgp_and_pkcs11(folder: Path) -> None:
    sh(folder, "openssl x509 -in cert.pem -outform der -out cert.der; cat cert.pem rsa.pem cert.pem > all")
    for name in ("cert.pem", "cert.der"):
        found = recognise(name, (folder / name).read_bytes())
        assert ([item.name for item in found.certificates], found.private) == ([name], [])
    found = recognise("all", (folder / "all").read_bytes())
    assert [item.name for item in found.certificates] == ["all#1", "all#3"]
    assert [item.name for item in found.private] == ["all#2"]
    vectors = ROOT / "tests/vectors/keys"
    for name in ("pgp-rsa.gpg", "pgp-rsa.asc", "pgp-pass.gpg"):
        assert len(recognise(name, (vectors / name).read_bytes()).pgp) == 1
    for yaml in (b"pkcs11:\n  uri: x\n", b'{"pkcs11": {"uri": "x"}}', b"# token\npkcs11:\n  uri: x\n"):
        assert len(recognise("yaml", yaml).pkcs11) == 1


def test_passwords_beside_keys(folder: Path) -> None:
    (folder / "password").write_bytes(PASSWORD)
    sh(folder, "mkdir keys; openssl pkcs8 -topk8 -in rsa.pem -passout file:password -out keys/key.pem")
    beside = folder / "keys/key.pem.pass"
    for text in (PASSWORD, PASSWORD + b"\n", PASSWORD + b"\r\n"):
        beside.write_bytes(text)
        beside.chmod(0o600)
        keys = Keyring()
        add_directory(keys, str(folder / "keys"))
        assert keys.notes.warnings == []
        assert fingerprint(keys.private[0].load()) == fingerprint(rsa_key())
    for mode in (0o640, 0o604, 0o666):
        beside.chmod(mode)
        keys = Keyring()
        add_directory(keys, str(folder / "keys"))
        assert keys.notes.warnings == ["'key.pem.pass' was skipped: its group or others can read it: chmod 600"]
        with pytest.raises(KeyFileError, match="no password was given"):
            keys.private[0].load()


def test_passwords_from_systemd_credentials(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "password").write_bytes(PASSWORD)
    sh(folder, "mkdir keys credentials; openssl pkcs8 -topk8 -in rsa.pem -passout file:password -out keys/key.pem")
    (folder / "credentials/key.pem.pass").write_bytes(PASSWORD)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder / "credentials"))
    keys = Keyring()
    add_directory(keys, str(folder / "keys"))
    assert fingerprint(keys.private[0].load()) == fingerprint(rsa_key())


def test_mutated_key_files_are_refused_or_loaded(folder: Path) -> None:
    """Whatever the bytes become: a key, or a reason; never another exception."""
    (folder / "password").write_bytes(PASSWORD)
    seeds = []
    for command in (PLAIN["PKCS#1 DER"], PLAIN["SEC1 PEM"], PLAIN["OpenSSH EC"], ENCRYPTED["legacy PEM aes192"]):
        sh(folder, f"rm -f out out.pub; {command}")
        seeds.append((folder / "out").read_bytes())
    seeds.append(JWK.from_pyca(ec_key()).export().encode())
    seeds.append((folder / "cert.pem").read_bytes() + (folder / "rsa.pem").read_bytes())
    chance = random.Random(11)
    for number in range(6000):
        changed = bytearray(seeds[number % len(seeds)])
        for _ in range(chance.randint(1, 4)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        if chance.random() < 0.2:
            del changed[chance.randrange(len(changed)) :]
        try:
            for key in recognise("mutated", bytes(changed), PASSWORD).private:
                key.load()
        except KeyFileError:
            pass
