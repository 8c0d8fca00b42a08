"""Every key of a PKCS#12 file, also in contents that are encrypted as a whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates
from cryptography.x509 import load_pem_x509_certificates

from decoder import limits
from decoder.errors import KeyFileError
from decoder.formats import ber
from decoder.keys.file import recognise
from decoder.keys.formats import pkcs12 as pkcs12_format
from decoder.keys.privatekey import fingerprint
from tests.support.keywrap.layers import ec_key, rsa_key
from tests.support.network.x509_certificates import certificate
from tests.support.program.processes import ROOT

PASSWORD = b"correct horse"
SHROUDED, NESTED = "2a864886f70d010c0a0102", "2a864886f70d010c0a0106"  # kinds of bags
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def locked(key: Any) -> bytes:
    return bytes(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, BestAvailableEncryption(PASSWORD)))


def loaded(data: bytes, password: bytes = b"") -> list[str]:
    return [fingerprint(key.load()) for key in recognise("k", data, password).private]


def reason(data: bytes, password: bytes = b"") -> str:
    with pytest.raises(KeyFileError) as caught:
        loaded(data, password)
    return str(caught.value)


def encrypted_data(content: bytes, iterations: int = 2048) -> bytes:
    """Write encrypted-data with PBES2, PBKDF2 and AES-256-CBC (RFC 5652 §8, RFC 8018 §A.4)."""

    def algorithm(oid: str, *parameters: bytes) -> bytes:
        return ber.der(ber.SEQUENCE, ber.der(ber.OID, bytes.fromhex(oid)), *parameters)

    key = hashlib.pbkdf2_hmac("sha256", PASSWORD, b"saltsalt", min(iterations, 2048) or 1, 32)
    padder = PKCS7(128).padder()
    encryptor = Cipher(AES(key), modes.CBC(bytes(16))).encryptor()
    ciphertext = encryptor.update(padder.update(content) + padder.finalize()) + encryptor.finalize()
    number = ber.der(ber.INTEGER, iterations.to_bytes(8))
    sha256 = algorithm("2a864886f70d0209")
    salted = ber.der(ber.SEQUENCE, ber.der(ber.OCTET_STRING, b"saltsalt"), number, sha256)
    derivation = algorithm("2a864886f70d01050c", salted)
    cipher = algorithm("60864801650304012a", ber.der(ber.OCTET_STRING, bytes(16)))
    pbes2_scheme = algorithm("2a864886f70d01050d", ber.der(ber.SEQUENCE, derivation, cipher))
    data = ber.der(ber.OID, bytes.fromhex("2a864886f70d010701"))
    inside = ber.der(ber.SEQUENCE, data, pbes2_scheme, ber.der(ber.CONTEXT, ciphertext))
    envelope = ber.der(ber.EXPLICIT, ber.der(ber.SEQUENCE, ber.der(ber.INTEGER, b"\0"), inside))
    return ber.der(ber.SEQUENCE, ber.der(ber.OID, bytes.fromhex("2a864886f70d010706")), envelope)


def bag(kind: str, content: bytes) -> bytes:
    return ber.der(ber.SEQUENCE, ber.der(ber.OID, bytes.fromhex(kind)), ber.der(ber.EXPLICIT, content))


def pkcs12(*keys: bytes, encrypt: Callable[[bytes], bytes] | None = None) -> bytes:
    """Write PKCS#12 with key bags."""
    return file_of(*(bag(SHROUDED, key) for key in keys), encrypt=encrypt)


def file_of(*bags: bytes, encrypt: Callable[[bytes], bytes] | None = None) -> bytes:
    """Write PKCS#12 with bags, without a MAC (RFC 7292 §4)."""

    def info(content: bytes) -> bytes:
        octets = ber.der(ber.EXPLICIT, ber.der(ber.OCTET_STRING, content))
        return ber.der(ber.SEQUENCE, ber.der(ber.OID, bytes.fromhex("2a864886f70d010701")), octets)

    contents = ber.der(ber.SEQUENCE, (encrypt or info)(ber.der(ber.SEQUENCE, *bags)))
    return ber.der(ber.SEQUENCE, ber.der(ber.INTEGER, b"\3"), info(contents))


def test_every_key_of_pkcs12() -> None:
    keys: list[Key] = [ec_key(), rsa_key(3072), rsa_key()]
    data = pkcs12(*(locked(key) for key in keys))
    assert loaded(data, PASSWORD) == [fingerprint(key) for key in keys]
    assert [key.name for key in recognise("k", data, PASSWORD).private] == ["k#1", "k#2", "k#3"]
    assert reason(data, b"wrong") == "it is encrypted, and the password does not open it"
    assert len(recognise("k", pkcs12(*[b"\x30\x00"] * 100)).private) == limits.PKCS12_KEYS


def test_every_key_in_encrypted_contents_of_pkcs12() -> None:
    keys: list[Key] = [ec_key(), rsa_key(3072), rsa_key()]
    bags = [locked(key) for key in keys]
    data = pkcs12(*bags, encrypt=encrypted_data)
    assert loaded(data, PASSWORD) == [fingerprint(key) for key in keys]
    assert reason(data, b"wrong").startswith("it is encrypted, and the password does not open it")
    assert reason(data) == "it cannot be opened without a password"


def test_keys_in_nested_contents_of_pkcs12() -> None:
    keys: list[Key] = [ec_key(), rsa_key()]
    inner = ber.der(ber.SEQUENCE, bag(SHROUDED, locked(keys[1])))
    assert loaded(file_of(bag(SHROUDED, locked(keys[0])), bag(NESTED, inner)), PASSWORD) == [
        fingerprint(key) for key in keys
    ]
    for _ in range(limits.BER_DEPTH):
        inner = ber.der(ber.SEQUENCE, bag(NESTED, inner))
    assert pkcs12_format.private_keys(file_of(bag(NESTED, inner))) == []


def test_a_malformed_safe_of_pkcs12_holds_no_keys() -> None:
    data = file_of(ber.der(ber.SEQUENCE, b"\7"), bag(SHROUDED, locked(ec_key())))
    assert pkcs12_format.private_keys(data, PASSWORD) == []
    assert reason(data, PASSWORD) == "it is encrypted, and the password does not open it"


def test_contents_of_another_type_hold_no_keys() -> None:
    """Such as data that is encrypted to a certificate (RFC 7292 §4.1)."""

    def enveloped(content: bytes) -> bytes:
        return ber.der(
            ber.SEQUENCE, ber.der(ber.OID, bytes.fromhex("2a864886f70d010703")), ber.der(ber.EXPLICIT, content)
        )

    assert pkcs12_format.private_keys(pkcs12(locked(ec_key()), encrypt=enveloped), PASSWORD) == []


def test_pkcs12_with_a_certificate_alone() -> None:
    (found,) = load_pem_x509_certificates(certificate(rsa_key().public_key()))
    data = serialize_key_and_certificates(None, None, None, [found], NoEncryption())
    assert reason(data) == "it holds no private key"


@pytest.mark.parametrize("iterations", [limits.KDF_ITERATIONS + 1, 1 << 62, 0])
def test_what_takes_too_much_is_not_derived(iterations: int) -> None:
    assert pkcs12_format.private_keys(pkcs12(encrypt=partial(encrypted_data, iterations=iterations)), PASSWORD) == []


def test_every_key_of_a_keystore() -> None:
    """Java's keytool wrote the file; the digests are those of the public keys as openssl writes them."""
    found = loaded((ROOT / "tests/vectors/keys/keytool-four.p12").read_bytes(), PASSWORD)
    assert [digest.removeprefix("sha256:")[:16] for digest in found] == [
        "a4d4153f5bee382f",
        "3fdd606768855e14",
        "5494cf9507a8e567",
        "df441927cbf8a145",
    ]
