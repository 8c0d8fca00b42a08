"""Whom layers may be encrypted to: a recipient whose key opens what is wrapped to it, or a clear refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa, x448, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509 import load_pem_x509_certificate
from jwcrypto.jwk import JWK

from decoder import keywrap, limits
from decoder.errors import KeyFileError
from decoder.formats import ber
from decoder.keywrap import jwe, pkcs7
from decoder.keywrap.recipient import RecipientRules
from tests.support.keywrap.layers import ec_key, pem, private_options, public_pem, rsa_key
from tests.support.network.x509_certificates import certificate

Read = Callable[..., list[bytes]]
WEAK = rsa.generate_private_key(65537, 1024)
AUTHORITY = ec_key(ec.SECP384R1)


def spki(public: Any, encoding: Encoding = Encoding.PEM) -> bytes:
    return bytes(public.public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo))


def no_keyring() -> bytes:
    raise AssertionError("no OpenPGP key is wanted")


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Read a file as a recipient of a scheme."""

    def read(scheme: str, data: bytes, **rules: Any) -> list[bytes]:
        path = tmp_path / "recipient"
        path.write_bytes(data)
        return keywrap.load(scheme).read_recipient(str(path), RecipientRules(no_keyring, **rules))

    return read


def refusal(read: Read, scheme: str, data: bytes, **rules: bool) -> str:
    with pytest.raises(KeyFileError) as caught:
        read(scheme, data, **rules)
    return str(caught.value)


def jwk(key: Any, **members: object) -> bytes:
    return json.dumps({**json.loads(JWK.from_pyca(key).export()), **members}).encode()


def opens(wrapped: bytes, key: Any) -> bool:
    from decoder.keys.privatekey import PrivateKey
    from decoder.keywrap.jwe.message import parse

    return jwe.unwrap_with(parse(wrapped), [PrivateKey("k", "pem", pem(key), b"")], lambda *_: None) is not None


@pytest.mark.parametrize("key", [rsa_key(), rsa_key(3072), ec_key(), ec_key(ec.SECP384R1), ec_key(ec.SECP521R1)])
def test_every_form_of_a_good_key(read: Read, key: Any) -> None:
    public = key.public_key()
    forms = [
        spki(public),
        spki(public, Encoding.DER),
        certificate(public),
        jwk(public),
        spki(public).replace(b"\n", b"\n\n"),
    ]
    if isinstance(key, rsa.RSAPrivateKey):
        forms += [public.public_bytes(encoding, PublicFormat.PKCS1) for encoding in (Encoding.PEM, Encoding.DER)]
    for form in forms:
        (material,) = read("jwe", form)
        assert opens(jwe.wrap(private_options(), [material]), key), form[:60]


@pytest.mark.parametrize("curve", [ec.SECP256K1, ec.SECP224R1, ec.BrainpoolP256R1])
@pytest.mark.parametrize("scheme", ["jwe", "pkcs7", "pkcs11"])
def test_other_curves_are_refused(read: Read, scheme: str, curve: type[ec.EllipticCurve]) -> None:
    public = ec.generate_private_key(curve()).public_key()
    for form in (spki(public), spki(public, Encoding.DER), certificate(public)):
        assert "curve" in refusal(read, scheme, form) or "PKCS#7 needs a certificate" in refusal(read, scheme, form)
    with pytest.raises(KeyFileError, match="curve"):
        jwe.wrap(b"", [spki(public)])


def short_rsa(bits: int) -> bytes:
    """Write a public RSA key of any size."""
    number = ber.der(ber.INTEGER, ((1 << bits - 1) + 1).to_bytes(bits // 8 + 1))
    key = ber.der(ber.SEQUENCE, number, ber.der(ber.INTEGER, b"\1\0\1"))
    algorithm = ber.der(ber.SEQUENCE, ber.der(ber.OID, bytes.fromhex("2a864886f70d010101")), ber.der(ber.NULL))
    return ber.der(ber.SEQUENCE, algorithm, ber.der(ber.BIT_STRING, b"\0" + key))


@pytest.mark.parametrize("scheme", ["jwe", "pkcs7", "pkcs11"])
def test_small_rsa_keys(read: Read, scheme: str) -> None:
    weak = certificate(WEAK.public_key())
    assert "its RSA key has 1024 bits; at least 2048 are required; --allow-weak-keys" in refusal(read, scheme, weak)
    assert len(read(scheme, weak, allow_weak_keys=True)) == 1
    if scheme != "pkcs7":
        for bits in (512, 1023):
            for allow in (True, False):
                shown = refusal(read, scheme, short_rsa(bits), allow_weak_keys=allow)
                assert shown == f"its RSA key has {bits} bits; at least 2048 are required"


def test_what_is_wrapped_to_a_weak_key_opens() -> None:
    assert opens(jwe.wrap(private_options(), [public_pem(WEAK)]), WEAK)
    with pytest.raises(KeyFileError, match="512 bits"):
        jwe.wrap(private_options(), [short_rsa(512)])
    assert pkcs7.wrap(private_options(), [certificate(WEAK.public_key())])


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"use": "sig"}, "use is 'sig'"),
        ({"use": 7}, "use is 7"),
        ({"key_ops": ["sign"]}, "key_ops do not allow"),
        ({"key_ops": ["verify", "decrypt"]}, "key_ops do not allow"),
        ({"key_ops": []}, "key_ops do not allow"),
        ({"key_ops": "encrypt"}, "key_ops do not allow"),
        ({"key_ops": [["encrypt"]]}, "key_ops do not allow"),
        ({"alg": "RS256"}, "alg is 'RS256'"),
        ({"alg": "RSA1_5"}, "alg is 'RSA1_5'"),
        ({"alg": "RSA-OAEP-512"}, "alg is 'RSA-OAEP-512'"),
        ({"alg": "ECDH-ES+A256KW"}, "alg is 'ECDH-ES+A256KW'"),
        ({"alg": ["RSA-OAEP"]}, "alg is ['RSA-OAEP']"),
        ({"d": "AQ"}, "it holds a private key"),
        ({"n": 7}, "it cannot be parsed as a JWK: its member n"),
        ({"n": ""}, "its member n"),
        ({"e": "AA"}, "do not make a key"),
        ({"kty": "oct"}, "of the type 'oct'"),
        ({"kty": None}, "of the type None"),
        ({"kty": "EC"}, "its member x"),
    ],
    ids=str,
)
def test_jwks_that_forbid_it(read: Read, members: dict[str, object], reason: str) -> None:
    assert reason in refusal(read, "jwe", jwk(rsa_key().public_key(), **members))


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"use": "enc"},
        {"use": None},
        *({"key_ops": [operation]} for operation in ("encrypt", "wrapKey", "deriveKey", "deriveBits")),
        {"key_ops": ["encrypt", "sign"]},
        {"alg": "RSA-OAEP-256"},
        {"kid": "me", "x5t": "x", "crv": "P-256"},
    ],
    ids=str,
)
def test_jwks_that_allow_it(read: Read, members: dict[str, object]) -> None:
    (material,) = read("jwe", jwk(rsa_key().public_key(), **members))
    assert opens(jwe.wrap(private_options(), [material]), rsa_key())


def test_a_jwk_set(read: Read) -> None:
    signing, encrypting = jwk(rsa_key().public_key(), use="sig"), jwk(ec_key().public_key(), use="enc")
    both = json.dumps({"keys": [json.loads(signing), json.loads(encrypting), 7]}).encode()
    (material,) = read("jwe", both)
    assert opens(jwe.wrap(private_options(), [material]), ec_key())
    two = json.dumps({"keys": [json.loads(jwk(rsa_key().public_key())), json.loads(encrypting)]}).encode()
    assert "2 unrelated keys" in refusal(read, "jwe", two)
    assert len(read("jwe", two, all_keys=True)) == 2
    assert "without a key" in refusal(read, "jwe", b'{"keys":[]}')
    beside = json.dumps({"keys": [json.loads(encrypting), json.loads(jwk(rsa_key()))]}).encode()
    assert "it holds a private key" in refusal(read, "jwe", beside)
    many = json.dumps({"keys": [json.loads(encrypting)] * (limits.RECIPIENT_KEYS + 1)}).encode()
    assert "more than 64" in refusal(read, "jwe", many, all_keys=True)
    assert "use is 'sig'" in refusal(read, "jwe", json.dumps({"keys": [json.loads(signing)]}).encode())


def private_forms() -> list[bytes]:
    encrypted = rsa_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    der = [
        rsa_key().private_bytes(Encoding.DER, form, NoEncryption())
        for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL)
    ]
    return [
        pem(rsa_key()),
        pem(ec_key()),
        encrypted,
        *der,
        jwk(rsa_key()),
        certificate(rsa_key().public_key()) + pem(rsa_key()),
    ]


@pytest.mark.parametrize("scheme", ["jwe", "pkcs7", "pkcs11"])
@pytest.mark.parametrize("data", private_forms(), ids=range(7))
def test_private_keys_are_refused(read: Read, scheme: str, data: bytes) -> None:
    if scheme == "pkcs11" and data[:1] == b"{":
        return  # the JSON form of a key file
    assert "it holds a private key" in refusal(read, scheme, data)


def test_of_a_chain_the_leaf(read: Read) -> None:
    root = certificate(AUTHORITY.public_key(), "root", ("root", AUTHORITY), usage="key_cert_sign")
    middle_key = ec_key(ec.SECP521R1)
    middle = certificate(middle_key.public_key(), "middle", ("root", AUTHORITY), usage="key_cert_sign")
    leaf = certificate(rsa_key().public_key(), "leaf", ("middle", middle_key), usage="key_encipherment")
    for order in ((leaf, middle, root), (root, middle, leaf), (middle, leaf, root), (leaf, middle), (leaf, root)):
        if order == (leaf, root):
            assert "2 unrelated" in refusal(read, "jwe", b"".join(order))
            continue
        (material,) = read("jwe", b"".join(order))
        assert opens(jwe.wrap(private_options(), [material]), rsa_key())
        assert len(read("pkcs7", b"".join(order))) == 1
    assert len(read("jwe", leaf + leaf + public_pem(rsa_key()))) == 1  # one key


def test_unrelated_certificates(read: Read) -> None:
    data = certificate(rsa_key().public_key()) + certificate(rsa_key(3072).public_key())
    for scheme in ("jwe", "pkcs7", "pkcs11"):
        assert "it holds 2 unrelated keys or certificates; --all-keys" in refusal(read, scheme, data)
        assert len(read(scheme, data, all_keys=True)) == 2
    assert "more than 64" in refusal(read, "jwe", certificate(rsa_key().public_key()) * (limits.RECIPIENT_KEYS + 1))


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"days": (-20, -10)}, "its certificate expired on "),
        ({"days": (10, 20)}, "its certificate is not valid before "),
        ({"usage": "digital_signature"}, "not meant for key encipherment"),
        ({"usage": "key_cert_sign"}, "not meant for key encipherment"),
    ],
    ids=str,
)
def test_certificates_that_are_not_valid(read: Read, how: dict[str, Any], reason: str) -> None:
    data = certificate(rsa_key().public_key(), **how)
    for scheme in ("jwe", "pkcs7", "pkcs11"):
        assert reason in refusal(read, scheme, data)
        assert len(read(scheme, data, allow_expired=True)) == 1
    assert len(read("jwe", certificate(rsa_key().public_key(), usage="key_encipherment"))) == 1
    assert len(read("jwe", certificate(ec_key().public_key(), usage="key_agreement"))) == 1
    assert "key agreement" in refusal(read, "jwe", certificate(ec_key().public_key(), usage="digital_signature"))


RSA, PSS = "06092a864886f70d010101", "06092a864886f70d01010a"  # object identifiers
P256, UNKNOWN = "06082a8648ce3d030107", "06082a8648ce3d03017f"


def changed(data: bytes, old: str, new: str) -> bytes:
    """Replace bytes, written in hexadecimal, by as many others."""
    assert bytes.fromhex(old) in data
    return data.replace(bytes.fromhex(old), bytes.fromhex(new), 1)


def certificate_der(key: Any, **how: Any) -> bytes:
    return load_pem_x509_certificate(certificate(key.public_key(), **how)).public_bytes(Encoding.DER)


def pss() -> bytes:
    """Write a public key that is for RSA-PSS alone."""
    return changed(spki(rsa_key().public_key(), Encoding.DER), RSA, PSS)


def of_another_version() -> bytes:
    """Change the version of a certificate (RFC 5280 §4.1.2.1) to one that there is not."""
    return changed(certificate_der(rsa_key()), "a003020102", "a00302016f")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (pss(), "RSA-PSS"),
        (spki(ed25519.Ed25519PrivateKey.generate().public_key()), "of the type 'Ed25519'"),
        (spki(x25519.X25519PrivateKey.generate().public_key()), "of the type 'X25519'"),
        (spki(x448.X448PrivateKey.generate().public_key()), "of the type 'X448'"),
        (b"", "is not a public key"),
        (b"text", "is not a public key"),
        (b"{", "is not a JWK"),
        (b"{}", "of the type None"),
        (b"\x30\x80", "is not a public key"),
        (b"-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----", "is not a public key"),
        (b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nxsBN\n-----END PGP PUBLIC KEY BLOCK-----", "is not a public key"),
        (spki(rsa_key().public_key())[:-40], "is not a public key"),
        (of_another_version(), "a certificate of a version that does not exist"),
        (changed(certificate_der(rsa_key()), f"300d{RSA}0500", f"300d{PSS}3000"), "it is an RSA-PSS key, which is for"),
        (changed(certificate_der(ec_key()), P256, UNKNOWN), "it is a certificate whose key is not supported; RSA and"),
        (changed(spki(ec_key().public_key(), Encoding.DER), P256, UNKNOWN), "of a type or curve that is not supported"),
        (
            changed(certificate_der(rsa_key(), usage="key_encipherment"), "03020520", "04020520"),
            "extensions of its cert",
        ),
    ],
    ids=range(17),
)
def test_what_nobody_can_encrypt_to(read: Read, data: bytes, reason: str) -> None:
    assert reason in refusal(read, "jwe", data)


def test_nobody_can_encrypt_to_dsa(read: Read) -> None:
    assert "of the type 'DSA'" in refusal(read, "jwe", spki(dsa.generate_private_key(2048).public_key()))
