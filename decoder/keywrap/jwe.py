"""JWE (RFC 7516, 7518): private options wrapped to RSA and EC keys.

Accepted, before any key is looked at: RSA-OAEP, RSA-OAEP-256 and ECDH-ES+A128KW, A192KW, A256KW, with
A128GCM, A192GCM, A256GCM, A128CBC-HS256, A192CBC-HS384, A256CBC-HS512; JSON serializations and the
compact one. Nothing else: no `zip`, no `crit`, no PBES2, no direct encryption.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

from decoder import limits
from decoder.errors import KeyFileError, WrappedKeyError, quoted
from decoder.formats import wire
from decoder.keys.file import PEM_BEGIN
from decoder.keys.privatekey import CURVE_NAMES
from decoder.record import Record

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec
    from jwcrypto.jwk import JWK

    from decoder.keys.keyring import Keys
    from decoder.keys.privatekey import PrivateKeyObject
    from decoder.keywrap import Refused

_RSA_HASHES: dict[str, type[hashes.HashAlgorithm]] = {"RSA-OAEP": hashes.SHA1, "RSA-OAEP-256": hashes.SHA256}
_ECDH_KEY_BYTES = {"ECDH-ES+A128KW": 16, "ECDH-ES+A192KW": 24, "ECDH-ES+A256KW": 32}
_DEFAULT_ALGORITHM = {"RSA": "RSA-OAEP", "EC": "ECDH-ES+A256KW"}
_GCM_KEY_BYTES = {"A128GCM": 16, "A192GCM": 24, "A256GCM": 32}
_CBC_HS = ("A128CBC-HS256", "A192CBC-HS384", "A256CBC-HS512")
_GCM_IV_BYTES = 12
_GCM_TAG_BYTES = 16


class _Recipient(Record):
    """One recipient: the three headers joined (RFC 7516 §7.2.1), its own one, and its encrypted key."""

    joined: dict[str, object]
    own: dict[str, object]
    encrypted_key: str


class _Jwe(Record):
    """The members of a JWE, base64url where RFC 7516 has them so, and its acceptable recipients."""

    members: dict[str, str]
    recipients: list[_Recipient]

    @property
    def additional_data(self) -> bytes:
        """RFC 7516 §5.1 step 14."""
        aad = self.members["aad"]
        return (self.members["protected"] + (f".{aad}" if aad else "")).encode()


class _DoesNotFitError(Exception):
    """This key does not open this recipient's share; the text says whether that was tried."""


def wrap(options: bytes, recipients: Sequence[bytes]) -> bytes:
    """Wrap private options to public keys: one JWE in JSON serialization for all of them, A256GCM inside.

    Each recipient has a `kid`, so that it can be told from others: that of its JWK, or else the fingerprint by which
    messages name keys.

    Args:
        options: the private options.
        recipients: 1 to JWE_RECIPIENTS public keys or certificates in PEM or DER, or JWKs; RSA gets RSA-OAEP and
            EC gets ECDH-ES+A256KW, but for a JWK whose `alg` is one of the five that are accepted.

    Raises:
        KeyFileError: a recipient is not a usable public key, or there are too few or too many.
    """
    from jwcrypto.jwe import JWE

    if not 1 <= len(recipients) <= limits.JWE_RECIPIENTS:
        raise KeyFileError(f"JWE is for 1 to {limits.JWE_RECIPIENTS} recipients, not {len(recipients)}")
    keys = [_public_jwk(recipient) for recipient in recipients]
    token = JWE(options, protected='{"enc":"A256GCM"}')
    for key in keys:
        token.add_recipient(key, header=json.dumps({"alg": _algorithm(key), "kid": key["kid"]}))
    return str(token.serialize()).encode()


def unwrap(wrapped: bytes, keys: Keys, refused: Refused) -> bytes | None:
    """Open a JWE with the first private key that fits one of its recipients.

    Args:
        wrapped: the serialized JWE, at most JWE_BYTES.
        keys: `keys.private` is tried in its order, those with a key ID that the JWE names first.
        refused: told of each key that does not open it, and why.

    Returns:
        The private options, or None.

    Raises:
        WrappedKeyError: it is malformed, or uses an algorithm that is not accepted.
    """
    jwe = _parse(wrapped)
    key_ids = [recipient.joined.get("kid") for recipient in jwe.recipients]
    for key in sorted(keys.private, key=lambda key: key.kid not in key_ids):
        try:
            return _open(jwe, key.load())
        except (KeyFileError, _DoesNotFitError) as error:
            refused(key, str(error))
    return None


def _parse(wrapped: bytes) -> _Jwe:
    if len(wrapped) > limits.JWE_BYTES:
        raise WrappedKeyError(f"it is longer than {limits.JWE_BYTES} bytes")
    try:
        return _parse_json(wrapped) if wrapped.lstrip()[:1] == b"{" else _parse_compact(wrapped)
    except ValueError as error:
        raise WrappedKeyError(f"it is not a JWE: {error}") from None


def _parse_compact(wrapped: bytes) -> _Jwe:
    """RFC 7516 §7.1."""
    parts = wrapped.decode("ascii", "replace").split(".", 5)
    if len(parts) != 5:
        raise ValueError("it has neither the JSON nor the compact form")
    protected, encrypted_key, iv, ciphertext, tag = parts
    members = {"protected": protected, "iv": iv, "ciphertext": ciphertext, "tag": tag, "aad": ""}
    header = wire.parse_object(wire.decode_base64url(protected))
    return _Jwe(members, _acceptable([_Recipient(header, {}, encrypted_key)]))


def _parse_json(wrapped: bytes) -> _Jwe:
    """RFC 7516 §7.2, both the general and the flattened form."""
    value = wire.parse_object(wrapped)
    members = {name: wire.text_value(value.get(name)) for name in ("protected", "iv", "ciphertext", "tag", "aad")}
    protected = wire.parse_object(wire.decode_base64url(members["protected"])) if members["protected"] else {}
    shared = wire.object_value(value.get("unprotected"))
    entries = wire.list_value(value["recipients"]) if "recipients" in value else [value]
    if len(entries) > limits.JWE_RECIPIENTS:
        raise ValueError(f"it has more than {limits.JWE_RECIPIENTS} recipients")
    recipients = []
    for entry in map(wire.object_value, entries):
        own = {**wire.object_value(entry.get("header")), **shared}
        recipients.append(_Recipient({**own, **protected}, own, wire.text_value(entry.get("encrypted_key"))))
    return _Jwe(members, _acceptable(recipients))


def _acceptable(recipients: list[_Recipient]) -> list[_Recipient]:
    """Keep the recipients whose algorithms are on the list; no key has been touched yet."""
    accepted = []
    problem = "it has no recipient"
    for recipient in recipients:
        algorithm, encryption = (recipient.joined.get(name) for name in ("alg", "enc"))
        if not isinstance(algorithm, str) or not isinstance(encryption, str):
            problem = "it does not name its key algorithm and content encryption"
        elif "zip" in recipient.joined or "crit" in recipient.joined:
            problem = "compression and critical extensions are not accepted"
        elif algorithm not in _RSA_HASHES and algorithm not in _ECDH_KEY_BYTES:
            problem = f"the key algorithm {quoted(algorithm)} is not accepted"
        elif encryption not in _GCM_KEY_BYTES and encryption not in _CBC_HS:
            problem = f"the content encryption {quoted(encryption)} is not accepted"
        else:
            accepted.append(recipient)
    if not accepted:
        raise WrappedKeyError(problem)
    return accepted


def _open(jwe: _Jwe, key: PrivateKeyObject) -> bytes:
    """Try one key on every recipient whose key it could be."""
    reason = "no recipient has a key of this type and size"
    for recipient in jwe.recipients:
        try:
            encrypted_key = wire.decode_base64url(recipient.encrypted_key)
            if not _could_fit(recipient.joined, encrypted_key, key):
                continue
            if recipient.joined["enc"] in _CBC_HS:
                return _open_with_jwcrypto(jwe, recipient, key)
            content_key = _content_key(recipient.joined, encrypted_key, key)
            return _open_gcm(jwe, content_key, _GCM_KEY_BYTES[str(recipient.joined["enc"])])
        except (ValueError, InvalidTag, InvalidUnwrap):
            # One reason for them all: nobody may learn whether RSA or the AEAD failed (RFC 7516 §11.5).
            reason = "it does not open this wrapped key"
    raise _DoesNotFitError(reason)


def _could_fit(header: dict[str, object], encrypted_key: bytes, key: PrivateKeyObject) -> bool:
    """Tell by what is public whether the key can be the recipient's, before any work with it."""
    if isinstance(key, rsa.RSAPrivateKey):
        return header["alg"] in _RSA_HASHES and len(encrypted_key) == (key.key_size + 7) // 8
    return header["alg"] in _ECDH_KEY_BYTES and CURVE_NAMES.get(key.curve.name) == _epk(header, "crv")


def _content_key(header: dict[str, object], encrypted_key: bytes, key: PrivateKeyObject) -> bytes:
    algorithm = str(header["alg"])
    if isinstance(key, rsa.RSAPrivateKey):
        digest = _RSA_HASHES[algorithm]
        return key.decrypt(encrypted_key, padding.OAEP(padding.MGF1(digest()), digest(), None))
    return aes_key_unwrap(_agreed_key(header, algorithm, key), encrypted_key)


def _agreed_key(header: dict[str, object], algorithm: str, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Derive the key-encryption key (RFC 7518 §4.6)."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash

    x, y = (int.from_bytes(wire.decode_base64url(_epk(header, name))) for name in ("x", "y"))
    ephemeral = ec.EllipticCurvePublicNumbers(x, y, key.curve).public_key()
    parties = [wire.decode_base64url(wire.text_value(header.get(name))) for name in ("apu", "apv")]
    length = _ECDH_KEY_BYTES[algorithm]
    info = b"".join(len(part).to_bytes(4) + part for part in (algorithm.encode(), *parties))
    kdf = ConcatKDFHash(hashes.SHA256(), length, info + (8 * length).to_bytes(4))
    return kdf.derive(key.exchange(ec.ECDH(), ephemeral))


def _epk(header: dict[str, object], name: str) -> str:
    return wire.text_value(wire.object_value(header.get("epk")).get(name))


def _open_gcm(jwe: _Jwe, content_key: bytes, length: int) -> bytes:
    iv, ciphertext, tag = (wire.decode_base64url(jwe.members[name]) for name in ("iv", "ciphertext", "tag"))
    if (len(content_key), len(iv), len(tag)) != (length, _GCM_IV_BYTES, _GCM_TAG_BYTES):
        raise ValueError("a key, IV or tag of a wrong length")
    return AESGCM(content_key).decrypt(iv, ciphertext + tag, jwe.additional_data)


def _open_with_jwcrypto(jwe: _Jwe, recipient: _Recipient, key: PrivateKeyObject) -> bytes:
    """Leave the CBC-HMAC contents, which nobody writes by default, to the library."""
    from jwcrypto.common import JWException
    from jwcrypto.jwe import JWE
    from jwcrypto.jwk import JWK

    flattened: dict[str, object] = {name: text for name, text in jwe.members.items() if text}
    flattened["encrypted_key"] = recipient.encrypted_key
    if recipient.own:
        flattened["header"] = recipient.own
    token = JWE(algs=[str(recipient.joined[name]) for name in ("alg", "enc")])
    try:
        token.deserialize(json.dumps(flattened), JWK.from_pyca(key))
    except JWException:
        raise ValueError("jwcrypto does not open it") from None
    return bytes(token.payload)


def _public_jwk(data: bytes) -> JWK:
    """Read a public key, and give it a `kid` of at most JWE_KEY_ID_CHARACTERS: its own if it came as a JWK."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_der_public_key
    from jwcrypto.common import JWException
    from jwcrypto.jwk import JWK

    try:
        own_id = None
        if data.lstrip()[:1] == b"{":
            key = JWK.from_json(data.decode())
            own_id = key.get("kid")
        elif PEM_BEGIN in data:
            key = JWK.from_pem(data)
        else:
            public = load_der_public_key(data)
            if not isinstance(public, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
                raise KeyFileError("it is neither an RSA nor an EC key")
            key = JWK.from_pyca(public)
    except (JWException, ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyFileError("it is not a public key in PEM, DER or JWK form") from None
    if key.get("kty") not in _DEFAULT_ALGORITHM:
        raise KeyFileError("it is neither an RSA nor an EC key")
    is_usable = isinstance(own_id, str) and 0 < len(own_id) <= limits.JWE_KEY_ID_CHARACTERS
    key["kid"] = own_id if is_usable else _fingerprint(key)
    return key


def _algorithm(key: JWK) -> str:
    """Choose the key algorithm: the JWK's own, if it is one that fits its type, or the default."""
    fitting = _RSA_HASHES if key["kty"] == "RSA" else _ECDH_KEY_BYTES
    own = str(key.get("alg"))
    return own if own in fitting else _DEFAULT_ALGORITHM[str(key["kty"])]


def _fingerprint(key: JWK) -> str:
    """Name the key as messages do: see `privatekey.fingerprint`."""
    from hashlib import sha256

    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

    public = load_pem_public_key(key.export_to_pem())
    return f"sha256:{sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()}"
