"""Private keys in odd but real forms: the content decides, and what is not supported is named."""

from __future__ import annotations

import base64
import hashlib
import json
from contextlib import suppress
from math import lcm, prod
from typing import Any

import pytest
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from jwcrypto.jwk import JWK

from decoder import limits
from decoder.errors import KeyFileError
from decoder.formats import ber
from decoder.keys.file import recognise
from decoder.keys.formats import legacy_pem, pbes2, pem
from decoder.keys.privatekey import fingerprint
from decoder.keywrap import jwe
from decoder.keywrap.jwe.message import parse
from tests.support.keywrap.layers import ec_key, encrypted, public_pem, rsa_key
from tests.support.program.processes import payload_bytes, run_decoder

PASSWORD = b"correct horse"
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def der(key: Any, form: PrivateFormat = PrivateFormat.PKCS8, password: bytes = b"") -> bytes:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return bytes(key.private_bytes(Encoding.DER, form, encryption))


def block(label: str, data: bytes, *headers: str) -> bytes:
    lines = [*headers, ""] if headers else []
    return "\n".join(
        [f"-----BEGIN {label}-----", *lines, base64.encodebytes(data).decode() + f"-----END {label}-----"]
    ).encode()


def loaded(data: bytes, password: bytes = b"") -> list[str]:
    return [fingerprint(key.load()) for key in recognise("k", data, password).private]


def reason(data: bytes, password: bytes = b"") -> str:
    with pytest.raises(KeyFileError) as caught:
        loaded(data, password)
    return str(caught.value)


FORMS: dict[str, tuple[Key, bytes]] = {
    "pkcs8": (rsa_key(), der(rsa_key())),
    "pkcs1": (rsa_key(), der(rsa_key(), PrivateFormat.TraditionalOpenSSL)),
    "sec1": (ec_key(), der(ec_key(), PrivateFormat.TraditionalOpenSSL)),
    "ec-pkcs8": (ec_key(), der(ec_key())),
    "encrypted": (rsa_key(), der(rsa_key(), password=PASSWORD)),
}
LABELS = ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "ANY PRIVATE KEY"]
LABELS += ["KEY", "rsa private key", "PUBLIC KEY", "CERTIFICATE", ""]  # not of private keys, but Go reads them all


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("form", FORMS)
def test_the_content_decides_not_the_label(label: str, form: str) -> None:
    key, data = FORMS[form]
    assert loaded(block(label, data), PASSWORD) == [fingerprint(key)]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(b"\n", b"\n\n"),
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text.replace(b"\n", b" \n\t "),
        lambda text: b"\n \n" + text + b"\n \n",
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: b"Bag Attributes\n    friendlyName: x\n" + text,
        lambda text: text.replace(b"-----\nM", b"-----\n\n\nM"),
    ],
)
def test_white_space_in_pem(change: Any) -> None:
    assert loaded(change(block("PRIVATE KEY", der(rsa_key())))) == [fingerprint(rsa_key())]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("more", [b"\r\n", b"\0\0", b"junk"])
def test_what_follows_a_key_is_ignored(more: bytes, form: str) -> None:
    key, data = FORMS[form]
    assert loaded(data + more, PASSWORD) == [fingerprint(key)]
    assert loaded(block("PRIVATE KEY", data + more), PASSWORD) == [fingerprint(key)]


@pytest.mark.parametrize(
    ("label", "data"),
    [
        ("DH PARAMETERS", ber.der(ber.SEQUENCE, ber.der(ber.INTEGER, b"\7"), ber.der(ber.INTEGER, b"\2"))),
        ("EC PARAMETERS", ber.der(ber.SEQUENCE, ber.der(ber.INTEGER, b"\1"), ber.der(ber.SEQUENCE))),
        ("EC PARAMETERS", bytes.fromhex("06082a8648ce3d030107")),
        ("RSA PUBLIC KEY", rsa_key().public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)),
        ("PUBLIC KEY", rsa_key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)),
        ("X509 CRL", b"0"),
        ("CERTIFICATE REQUEST", b""),
    ],
)
def test_what_stands_beside_a_key_is_not_taken_for_one(label: str, data: bytes) -> None:
    assert loaded(block(label, data) + b"\n" + block("KEY", der(rsa_key()))) == [fingerprint(rsa_key())]


def primes_of(count: int) -> list[int]:
    keys = [rsa.generate_private_key(65537, 1024) for _ in range((count + 1) // 2)]
    return [prime for key in keys for prime in (key.private_numbers().p, key.private_numbers().q)][:count]


def multi_prime(count: int) -> tuple[list[int], int, int]:
    """Make primes, the modulus and the private exponent of an RSA key."""
    while True:
        primes = primes_of(count)
        order = lcm(*(prime - 1 for prime in primes))
        if order % 65537:
            return primes, prod(primes), pow(65537, -1, order)


def multi_prime_der(count: int) -> bytes:
    """Write PKCS#1 of version 1 (RFC 8017 §A.1.2)."""
    primes, modulus, d = multi_prime(count)
    p, q, *rest = primes

    def number(value: int) -> bytes:
        return ber.der(ber.INTEGER, value.to_bytes(value.bit_length() // 8 + 1))

    others = []
    for at, prime in enumerate(rest, 2):
        coefficient = pow(prod(primes[:at]), -1, prime)
        others.append(ber.der(ber.SEQUENCE, number(prime), number(d % (prime - 1)), number(coefficient)))
    crt = [number(d % (p - 1)), number(d % (q - 1)), number(pow(q, -1, p))]
    numbers = [number(value) for value in (1, modulus, 65537, d, p, q)]
    return ber.der(ber.SEQUENCE, *numbers, *crt, ber.der(ber.SEQUENCE, *others))


@pytest.mark.parametrize("count", [3, 4, 5])
def test_rsa_of_several_primes(count: int) -> None:
    data = multi_prime_der(count)
    (key,) = recognise("k", block("RSA PRIVATE KEY", data)).private
    wrapped = jwe.wrap(b"options", [public_pem(key.load())])
    assert jwe.unwrap_with(parse(wrapped), [key], lambda _key, why: pytest.fail(why)) == b"options"
    algorithm = ber.der(ber.SEQUENCE, ber.der(ber.OID, bytes.fromhex("2a864886f70d010101")), ber.der(ber.NULL))
    pkcs8 = ber.der(ber.SEQUENCE, ber.der(ber.INTEGER, b"\0"), algorithm, ber.der(ber.OCTET_STRING, data))
    assert loaded(pkcs8) == loaded(data)


def encrypted_pkcs8(pkcs8: bytes, iterations: int = 1000) -> bytes:
    """Write PKCS#8 that PBES2 encrypts: PBKDF2 with HMAC-SHA256, and AES-256-CBC."""
    salt, iv = bytes(8), bytes(range(16))
    key = hashlib.pbkdf2_hmac("sha256", PASSWORD, salt, iterations, 32)
    padder = PKCS7(128).padder()
    encryptor = Cipher(AES(key), modes.CBC(iv)).encryptor()
    ciphertext = encryptor.update(padder.update(pkcs8) + padder.finalize()) + encryptor.finalize()

    def algorithm(oid: str, *parameters: bytes) -> bytes:
        return ber.der(ber.SEQUENCE, ber.der(ber.OID, bytes.fromhex(oid)), *parameters)

    hmac = algorithm("2a864886f70d0209", ber.der(ber.NULL))
    kdf = ber.der(ber.SEQUENCE, ber.der(ber.OCTET_STRING, salt), ber.der(ber.INTEGER, iterations.to_bytes(2)), hmac)
    parts = ber.der(
        ber.SEQUENCE,
        algorithm("2a864886f70d01050c", kdf),
        algorithm("60864801650304012a", ber.der(ber.OCTET_STRING, iv)),
    )
    return ber.der(ber.SEQUENCE, algorithm("2a864886f70d01050d", parts), ber.der(ber.OCTET_STRING, ciphertext))


def test_rsa_of_several_primes_within_encrypted_pkcs8() -> None:
    data = multi_prime_der(3)
    algorithm = ber.der(ber.SEQUENCE, ber.der(ber.OID, bytes.fromhex("2a864886f70d010101")), ber.der(ber.NULL))
    pkcs8 = ber.der(ber.SEQUENCE, ber.der(ber.INTEGER, b"\0"), algorithm, ber.der(ber.OCTET_STRING, data))
    locked = encrypted_pkcs8(pkcs8)
    assert loaded(locked, PASSWORD) == loaded(data)
    assert reason(locked, b"wrong") == "it is encrypted, and the password does not open it"
    assert reason(locked) == "it is encrypted, and no password was given"


def test_a_wrong_password_that_leaves_good_padding_is_wrong() -> None:
    """That is one in 256; then the library blames the key."""
    locked = encrypted_pkcs8(b"no key")
    passwords = (f"wrong {number}".encode() for number in range(10_000))
    found = next(each for each in passwords if is_padded(locked, each))
    assert reason(locked, found) == "it is encrypted, and the password does not open it"


def is_padded(locked: bytes, password: bytes) -> bool:
    with suppress(ValueError):
        return pbes2.decrypt(locked, password) != b""
    return False


@pytest.mark.parametrize("inside", [ber.der(ber.SEQUENCE), ber.der(ber.SEQUENCE, multi_prime_der(3))])
def test_what_is_malformed_within_encrypted_pkcs8(inside: bytes) -> None:
    told = "the password opens it, but the key in it is malformed or not supported"
    assert reason(encrypted_pkcs8(inside), PASSWORD) == told


def test_mutations_of_pbes2_raise_nothing_else() -> None:
    data = encrypted_pkcs8(b"no key", iterations=1)  # so that one byte does not make them millions
    for at in range(len(data)):
        for value in (0, data[at] ^ 1, 0xFF):
            with suppress(ValueError):
                pbes2.decrypt(data[:at] + bytes([value]) + data[at + 1 :], PASSWORD)


def test_ciphers_of_pkcs8_that_are_not_supported_are_named() -> None:
    data = encrypted_pkcs8(der(rsa_key()))
    aes = bytes.fromhex("60864801650304012a")
    assert reason(data.replace(aes, aes[:-1] + b"\x7f"), PASSWORD) == (
        "it is encrypted with 2.16.840.1.101.3.4.1.127, which is not supported"
    )


def test_rsa_of_primes_that_do_not_fit() -> None:
    assert "cannot be parsed" in reason(multi_prime_der(6))
    large = ber.der(ber.INTEGER, b"\1" * (limits.KEY_NUMBER_BYTES + 2))
    assert "cannot be parsed" in reason(ber.der(ber.SEQUENCE, ber.der(ber.INTEGER, b"\1"), *[large] * 5))
    data = bytearray(multi_prime_der(3))
    data[40] ^= 1  # within the modulus
    assert "cannot be parsed" in reason(bytes(data))


def legacy(name: str, data: bytes, iv: bytes, key_bytes: int) -> bytes:
    """Write legacy PEM as OpenSSL's -traditional does."""
    key = legacy_pem._derive_key(PASSWORD, iv[:8], key_bytes)
    padder = PKCS7(64).padder()
    padded = padder.update(data) + padder.finalize()
    encryptor = Cipher(TripleDES((key * 3)[:24]), modes.CBC(iv)).encryptor()
    headers = ["Proc-Type: 4,ENCRYPTED", f"DEK-Info: {name},{iv.hex().upper()}"]
    return block("RSA PRIVATE KEY", encryptor.update(padded) + encryptor.finalize(), *headers)


@pytest.mark.parametrize(("name", "key_bytes"), [("DES-CBC", 8), ("DES-EDE3-CBC", 24)])
def test_legacy_pem_with_des(name: str, key_bytes: int) -> None:
    data = legacy(name, FORMS["pkcs1"][1], bytes(range(8)), key_bytes)
    assert loaded(data, PASSWORD) == [fingerprint(rsa_key())]
    assert reason(data) == "it is encrypted, and no password was given"
    assert reason(data, b"wrong") == "it is encrypted, and the password does not open it"


def test_what_is_not_supported_in_legacy_pem_is_named() -> None:
    data = legacy("CAMELLIA-256-CBC", FORMS["pkcs1"][1], bytes(8), 24)
    assert reason(data, PASSWORD) == "it is encrypted with the cipher 'CAMELLIA-256-CBC', which is not supported"
    for dek_info in ("DES-CBC", "DES-CBC,", "DES-CBC,zz", "DES-CBC,0011"):
        assert "password does not open it" in reason(
            block("RSA PRIVATE KEY", b"x" * 8, "Proc-Type: 4,ENCRYPTED", f"DEK-Info: {dek_info}"), PASSWORD
        )


def jwk(key: Key, *without: str, **changes: object) -> bytes:
    members = {**json.loads(JWK.from_pyca(key).export()), **changes}
    return json.dumps({name: value for name, value in members.items() if name not in without}).encode()


def b64(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes((number.bit_length() + 7) // 8)).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "without", [("dp", "dq", "qi"), ("dp",), ("qi",), ("p", "q", "dp", "dq", "qi"), ("p", "q")], ids=str
)
def test_rsa_jwks_without_members(without: tuple[str, ...]) -> None:
    assert loaded(jwk(rsa_key(), *without)) == [fingerprint(rsa_key())]


def test_a_jwk_without_primes_whose_numbers_do_not_fit() -> None:
    for name, number in (("d", 3), ("n", 1)):
        assert reason(jwk(rsa_key(), "p", "q", **{name: b64(number)})) == (
            "it cannot be parsed as a JWK: its numbers do not make a key"
        )


def test_a_jwk_of_three_primes() -> None:
    primes, modulus, d = multi_prime(3)
    members = {"kty": "RSA", "n": b64(modulus), "e": "AQAB", "d": b64(d), "p": b64(primes[0]), "q": b64(primes[1])}
    (found,) = loaded(json.dumps({**members, "oth": [{"r": b64(primes[2])}]}).encode())
    assert found == loaded(json.dumps({name: members[name] for name in members if name not in "pq"} | {
        "p": b64(primes[2]), "q": b64(primes[1]), "oth": [{"r": b64(primes[0])}]}).encode())[0]  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"crv": "P-256"},
        {"x": 7, "y": None},
        {"k": "AAAA"},
        {"use": "sig"},
        {"key_ops": "odd"},
        {"alg": ["x"]},
        {"kid": {}},
    ],
    ids=str,
)
def test_members_that_do_not_belong_are_ignored(changes: dict[str, object]) -> None:
    assert loaded(jwk(rsa_key(), **changes)) == [fingerprint(rsa_key())]


ODD: list[object] = ["", "é", "!", "A", 7, 7.5, True, [], {}, ["AQAB"], "AA", "AQ", "_" * 10_000, "\ud800", None]


@pytest.mark.parametrize("value", ODD, ids=lambda value: ascii(value)[:20])
@pytest.mark.parametrize(
    ("key", "name"), [(rsa_key(), each) for each in "ned"] + [(ec_key(), each) for each in ("crv", "d")]
)
def test_odd_members_are_a_reason_and_never_another_exception(key: Key, name: str, value: object) -> None:
    data = jwk(key, **{name: value})
    assert "JWK" in reason(data) or "curve" in reason(data)


@pytest.mark.parametrize("value", ODD, ids=lambda value: ascii(value)[:20])
@pytest.mark.parametrize("name", ["p", "q", "oth", "x", "y", "kty", "kid"])
def test_odd_members_leave_a_warning_at_most(name: str, value: object) -> None:
    """Whatever a JWK of the node holds, a layer for another key opens."""
    for key in (rsa_key(), ec_key()):
        with suppress(KeyFileError):
            loaded(jwk(key, **{name: value}))


def test_an_odd_jwk_does_not_keep_other_keys_from_opening_a_layer() -> None:
    layer = encrypted(b"plain")
    keys = [jwk(rsa_key(), "p", q=7), b'{"kty":"RSA","n":%s}' % (b"9" * 5000), b'{"kty":"RSA","crv":"P-256","d":"AQ"}']
    keys.append(block("PRIVATE KEY", der(rsa_key())))
    result = run_decoder(payload_bytes(layer.descriptor, {"privkeys": keys}), layer.ciphertext)
    assert (result.status, result.plaintext) == (0, b"plain"), result.errors


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (public_pem(rsa_key()), "it holds a public key; a private key is needed"),
        (rsa_key().public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1), "it holds a public key"),
        (rsa_key().public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1), "it holds a public key"),
        (ec_key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), "it holds a public key"),
        (rsa_key().public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH), "it holds a public key"),
        (b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n-----END PGP PUBLIC KEY BLOCK-----", "an OpenPGP public key"),
        (b"\x99\x01\x0d\x04", "an OpenPGP public key"),
        (b"\xfe\xed\xfe\xed\0\0\0\2", "a Java keystore"),
        (b"PuTTY-User-Key-File-3: ssh-rsa", "a key of PuTTY"),
        (JWK.from_pyca(rsa_key().public_key()).export().encode(), "it is a public JWK"),
        (der(ec.generate_private_key(ec.SECP256K1())), "its curve secp256k1 is not supported (P-256, P-"),
        (der(ec.generate_private_key(ec.BrainpoolP256R1())), "its curve brainpoolP256r1 is not supported"),
        (der(ed25519.Ed25519PrivateKey.generate()), "it is a key of the type 'Ed25519'; only RSA and EC"),
    ],
    ids=range(13),
)  # fmt: skip
def test_what_is_not_supported_is_named(data: bytes, expected: str) -> None:
    assert expected in reason(data)


def test_blocks_of_pem() -> None:
    assert pem.split(b"no block") == []
    (cut,) = pem.split(b"-----BEGIN X-----\nAAAA\n")
    with pytest.raises(ValueError, match="does not end"):
        cut.data()
    (with_headers,) = pem.split(b"-----BEGIN X-----\nA: b:c\nD:e\n\nAA\n AA\n-----END X-----")
    assert (with_headers.label, with_headers.headers, with_headers.data()) == ("X", {"A": "b:c", "D": "e"}, bytes(3))
