"""The JWE of a key broker to the key of a TEE: what jwcrypto writes is opened, and hostile ones are refused."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from jwcrypto.jwk import JWK

from decoder import limits
from decoder.provider.errors import ProviderError
from decoder.provider.services.coco.kbs.teekey import open_reply
from tests.support.coco.kbs_server import decoded, encoded, encrypt
from tests.support.keywrap.layers import ec_key, pem, public_pem, rsa_key

RESOURCE = os.urandom(32)
P256 = ec_key(ec.SECP256R1)
KEYS: dict[str, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey] = {
    "P-256": P256,
    "P-521": ec_key(ec.SECP521R1),
    "RSA": rsa_key(),
}


def reply(name: str = "P-256", resource: bytes = RESOURCE, **header: Any) -> dict[str, str]:
    return encrypt(resource, JWK.from_pyca(KEYS[name].public_key()), **header)


def failure(value: object, key: bytes = pem(P256)) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    with pytest.raises(ProviderError) as caught:
        open_reply(text, key)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < limits.PROVIDER_ERROR_BYTES
    assert "PRIVATE KEY" not in message
    return message


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("length", [0, 1, 31, 32, 33, 4096])
def test_opens_what_another_library_encrypted(name: str, length: int) -> None:
    resource = os.urandom(length)
    assert open_reply(json.dumps(reply(name, resource)).encode(), pem(KEYS[name])) == resource


@pytest.mark.parametrize("name", KEYS)
def test_reads_the_key_in_every_form(name: str) -> None:
    text = json.dumps(reply(name)).encode()
    key = KEYS[name]
    traditional = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    for form in (pem(key), traditional, der, JWK.from_pyca(key).export().encode()):
        assert open_reply(text, form) == RESOURCE


def test_the_header_is_what_the_broker_writes() -> None:
    """The members of the JWE and of its header are those of docs/formats.md §8, the header compact JSON."""
    value = reply()
    header = decoded(value["protected"])
    assert json.dumps(json.loads(header), separators=(",", ":")).encode() == header
    assert json.loads(header).keys() == {"alg", "enc", "epk"}
    assert json.loads(header)["epk"].keys() == {"crv", "kty", "x", "y"}


@pytest.mark.parametrize("algorithm", ["RSA1_5", "RSA-OAEP", "A256KW", "dir", "PBES2-HS256+A128KW", "ECDH-ES", None, 7])
def test_refuses_other_key_algorithms(algorithm: object) -> None:
    value = with_header(reply("RSA"), alg=algorithm)
    assert "its alg is " in failure(value, pem(KEYS["RSA"]))


@pytest.mark.parametrize("encryption", ["A128GCM", "A192GCM", "A256CBC-HS512", "a256gcm", None, ["A256GCM"]])
def test_refuses_other_content_encryptions(encryption: object) -> None:
    assert "its enc is " in failure(with_header(reply(), enc=encryption))


def test_refuses_what_another_library_encrypts_otherwise() -> None:
    key = JWK.from_pyca(KEYS["RSA"].public_key())
    for header in ({"alg": "RSA1_5"}, {"alg": "RSA-OAEP"}, {"enc": "A128GCM"}, {"enc": "A256CBC-HS512"}):
        assert "not" in failure(encrypt(RESOURCE, key, **header), pem(KEYS["RSA"]))


@pytest.mark.parametrize("curve", ["P-384", "X25519", "secp256k1", None, {}])
def test_refuses_other_curves(curve: object) -> None:
    epk = {**json.loads(decoded(reply()["protected"]))["epk"], "crv": curve}
    assert "is not on P-256 or P-521" in failure(with_header(reply(), epk=epk))


@pytest.mark.parametrize("member", [{"zip": "DEF"}, {"crit": ["exp"]}])
def test_refuses_extensions(member: dict[str, object]) -> None:
    assert "are not accepted" in failure(with_header(reply(), **member))


@pytest.mark.parametrize("x", ["", "AA", "A" * 43, "!", "A" * 10000])
def test_refuses_points_off_the_curve(x: str) -> None:
    epk = {**json.loads(decoded(reply()["protected"]))["epk"], "x": x}
    assert "does not open this wrapped key" in failure(with_header(reply(), epk=epk))


@pytest.mark.parametrize("name", ["protected", "encrypted_key", "iv", "ciphertext", "tag"])
@pytest.mark.parametrize("key", KEYS)
def test_notices_every_change(key: str, name: str) -> None:
    value = reply(key)
    data = decoded(value[name])
    for changed in (bytes([data[0] ^ 1]) + data[1:], data[:-1], b""):
        failure({**value, name: encoded(changed)}, pem(KEYS[key]))
    others: list[object] = ["*", 7, None, [], "A" * 5]
    for other in others:
        failure({**value, name: other}, pem(KEYS[key]))
    failure({member: text for member, text in value.items() if member != name}, pem(KEYS[key]))


def test_the_header_itself_is_authenticated() -> None:
    """The AAD is the ASCII of `protected`, so that the same header written otherwise opens nothing."""
    value = reply()
    spaced = decoded(value["protected"]).replace(b",", b", ")
    assert "does not open this wrapped key" in failure({**value, "protected": encoded(spaced)})


@pytest.mark.parametrize("name", ["aad", "header", "unprotected", "recipients", "anything"])
def test_refuses_other_members(name: str) -> None:
    assert "is not a JWE for a TEE" in failure({**reply(), name: "AAAA"})


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b'"a"', b"\xff", b"{}", b"[" * 100000, b"a.b.c.d.e"])
def test_refuses_what_is_no_jwe(text: bytes) -> None:
    assert "is not a JWE" in failure(text)


def test_a_long_reply_is_not_parsed() -> None:
    assert "longer than a key" in failure(b"[" * (limits.JWE_BYTES + 1))


def test_another_key_opens_nothing() -> None:
    message = failure(reply(), pem(ec.generate_private_key(ec.SECP256R1())))
    assert "the TEE key (EC P-256, sha256:" in message
    assert "does not open this wrapped key" in message
    assert "no recipient has a key of this type and size" in failure(reply(), pem(KEYS["P-521"]))
    assert "no recipient has a key of this type and size" in failure(reply("RSA"), pem(P256))


def test_says_what_is_wrong_with_the_key() -> None:
    for data in (b"", b"secret of the file", public_pem(P256)):
        assert "the TEE key was skipped: " in failure(reply(), data)
    edwards = ed25519.Ed25519PrivateKey.generate()
    data = edwards.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    assert "only RSA and EC private keys open layers" in failure(reply(), data)


def with_header(value: dict[str, str], **members: object) -> dict[str, str]:
    header = {**json.loads(decoded(value["protected"])), **members}
    return {**value, "protected": encoded(json.dumps(header, separators=(",", ":")).encode())}
