"""Opening a JWE with one private key (RFC 7516 §5.2, RFC 7518 §4, §5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

from decoder.errors import WrappedKeyError, quoted
from decoder.formats import wire
from decoder.keys.privatekey import CURVE_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric import ec

    from decoder.keys.privatekey import PrivateKeyObject
    from decoder.keywrap.jwe.message import Jwe, JweRecipient

    PublicKeyObject = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

RSA_HASHES: dict[str, type[hashes.HashAlgorithm]] = {"RSA-OAEP": hashes.SHA1, "RSA-OAEP-256": hashes.SHA256}
ECDH_KEY_BYTES = {"ECDH-ES+A128KW": 16, "ECDH-ES+A192KW": 24, "ECDH-ES+A256KW": 32}
_GCM_KEY_BYTES = {"A128GCM": 16, "A192GCM": 24, "A256GCM": 32}
_CBC_HS = ("A128CBC-HS256", "A192CBC-HS384", "A256CBC-HS512")
_GCM_IV_BYTES = 12
_GCM_TAG_BYTES = 16


class DoesNotFitError(Exception):
    """The key opens no recipient's wrapped key; the text says whether the key was tried."""


def acceptable(recipients: list[JweRecipient]) -> list[JweRecipient]:
    """Return the recipients whose algorithms are accepted; no key is used for this.

    Raises:
        WrappedKeyError: there is no such recipient.
    """
    accepted = []
    problem = "it has no recipient"
    for recipient in recipients:
        algorithm, encryption = (recipient.joined.get(name) for name in ("alg", "enc"))
        if not isinstance(algorithm, str) or not isinstance(encryption, str):
            problem = "it does not name its key algorithm and content encryption"
        elif recipient.joined.get("zip") is not None or "crit" in recipient.joined:
            problem = "compression and critical extensions are not accepted"
        elif algorithm not in RSA_HASHES and algorithm not in ECDH_KEY_BYTES:
            problem = f"the key algorithm {quoted(algorithm)} is not accepted"
        elif encryption not in _GCM_KEY_BYTES and encryption not in _CBC_HS:
            problem = f"the content encryption {quoted(encryption)} is not accepted"
        else:
            accepted.append(recipient)
    if not accepted:
        raise WrappedKeyError(problem)
    return accepted


def open_with(jwe: Jwe, recipients: list[JweRecipient], key: PrivateKeyObject, spend: Callable[[], None]) -> bytes:
    """Return the content of a JWE, opened by a key that is tried on every recipient that it fits.

    Args:
        jwe: the message.
        recipients: the result of `acceptable`.
        key: the private key.
        spend: is called before each operation with the key.

    Raises:
        DoesNotFitError: the key opens no recipient's wrapped key.
        WrappedKeyError: `spend` does not allow more operations.
    """
    reason = "no recipient has a key of this type and size"
    for recipient in recipients:
        try:
            if not could_fit(recipient, key):
                continue
            spend()
            if recipient.joined["enc"] in _CBC_HS:
                return _open_with_jwcrypto(jwe, recipient, key)
            content_key = _content_key(recipient, key)
            return open_content(jwe, recipient, content_key)
        except (ValueError, InvalidTag, InvalidUnwrap):
            # One reason for all: an attacker must not learn whether RSA or the AEAD failed (RFC 7516 §11.5).
            reason = "it does not open this wrapped key"
    raise DoesNotFitError(reason)


def could_fit(recipient: JweRecipient, key: PrivateKeyObject | PublicKeyObject) -> bool:
    """Check from public values whether a key can be the recipient's, without using it.

    Raises:
        ValueError: the recipient's header is malformed.
    """
    algorithm = recipient.joined["alg"]
    if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey):
        return algorithm in RSA_HASHES and len(recipient.encrypted_key) == (key.key_size + 7) // 8
    return algorithm in ECDH_KEY_BYTES and CURVE_NAMES.get(key.curve.name) == _epk(recipient.joined, "crv")


def _content_key(recipient: JweRecipient, key: PrivateKeyObject) -> bytes:
    algorithm = str(recipient.joined["alg"])
    if isinstance(key, rsa.RSAPrivateKey):
        digest = RSA_HASHES[algorithm]
        return key.decrypt(recipient.encrypted_key, padding.OAEP(padding.MGF1(digest()), digest(), None))
    return aes_key_unwrap(_agreed_key(recipient.joined, algorithm, key), recipient.encrypted_key)


def _agreed_key(header: dict[str, object], algorithm: str, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Derive the key-encryption key (RFC 7518 §4.6)."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash

    x, y = (int.from_bytes(wire.decode_base64url(_epk(header, name))) for name in ("x", "y"))
    ephemeral = ec.EllipticCurvePublicNumbers(x, y, key.curve).public_key()
    parties = [wire.decode_base64url(wire.text_value(header.get(name))) for name in ("apu", "apv")]
    length = ECDH_KEY_BYTES[algorithm]
    info = b"".join(len(part).to_bytes(4) + part for part in (algorithm.encode(), *parties))
    kdf = ConcatKDFHash(hashes.SHA256(), length, info + (8 * length).to_bytes(4))
    return kdf.derive(key.exchange(ec.ECDH(), ephemeral))


def _epk(header: dict[str, object], name: str) -> str:
    return wire.text_value(wire.object_value(header.get("epk")).get(name))


def open_content(jwe: Jwe, recipient: JweRecipient, content_key: bytes) -> bytes:
    """Decrypt the content of a JWE with AES-GCM.

    Args:
        jwe: the message.
        recipient: the recipient whose `encrypted_key` was opened.
        content_key: the content key.

    Raises:
        ValueError: the key, IV or tag has a wrong length, or the content is not encrypted with AES-GCM.
        InvalidTag: the key is wrong, or the content was changed.
    """
    length = _GCM_KEY_BYTES.get(str(recipient.joined["enc"]))
    iv, ciphertext, tag = (jwe.members[name] for name in ("iv", "ciphertext", "tag"))
    if (len(content_key), len(iv), len(tag)) != (length, _GCM_IV_BYTES, _GCM_TAG_BYTES):
        raise ValueError("a key, IV or tag of a wrong length")
    return AESGCM(content_key).decrypt(iv, ciphertext + tag, jwe.additional_data)


def _open_with_jwcrypto(jwe: Jwe, recipient: JweRecipient, key: PrivateKeyObject) -> bytes:
    """Decrypt content with CBC and HMAC by the library; this is slow, but no program writes such content by default."""
    from jwcrypto.common import JWException
    from jwcrypto.jwe import JWE
    from jwcrypto.jwk import JWK

    flattened: dict[str, object] = {name: wire.encode_base64url(data) for name, data in jwe.members.items() if data}
    flattened["encrypted_key"] = wire.encode_base64url(recipient.encrypted_key)
    if recipient.own:
        flattened["header"] = recipient.own
    # Only this pair of algorithms, which was checked before; jwcrypto would allow more.
    token = JWE(algs=[str(recipient.joined[name]) for name in ("alg", "enc")])
    try:
        token.deserialize(wire.build_json(flattened).decode(), JWK.from_pyca(key))
    except JWException as error:
        raise ValueError("jwcrypto does not open it") from error
    return bytes(token.payload)
