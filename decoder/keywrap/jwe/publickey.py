"""Public keys of a JWE's recipients, each with its algorithm and key ID."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import rsa
from jwcrypto.jwk import JWK

from decoder import limits
from decoder.errors import KeyFileError, quoted
from decoder.keys.privatekey import public_fingerprint
from decoder.keywrap.jwe.naming import FINGERPRINT
from decoder.keywrap.jwe.opening import ECDH_KEY_BYTES, RSA_HASHES
from decoder.keywrap.publickeys import check_curve, parse_public_keys
from decoder.record import Record

if TYPE_CHECKING:
    from decoder.keywrap.publickeys import PublicKey, PublicKeyObject

_SAME_FAMILY = ("ECDH-ES",)  # direct agreement, which allows only one recipient; key wrapping takes its place


class JweKey(Record):
    """A public key, and the key algorithm and key ID for the header of its recipient."""

    key: PublicKeyObject
    algorithm: str
    key_id: str

    def jwk(self) -> JWK:
        """Return the key for jwcrypto, without `use` and `key_ops`, which `publickeys` has checked."""
        return JWK.from_pyca(self.key)

    def header(self) -> str:
        """Return the header of its recipient, as JSON; readers ignore parameters that they do not know."""
        fingerprint = public_fingerprint(self.key)
        more = {} if self.key_id == fingerprint else {FINGERPRINT: fingerprint}
        return json.dumps({"alg": self.algorithm, "kid": self.key_id, **more})


def material(public: PublicKey) -> bytes:
    """Build the bytes that `jwe_key` reads: a JWK with all its members, or SubjectPublicKeyInfo for any other key.

    Raises:
        KeyFileError: layers are not wrapped with the key's algorithm.
    """
    _algorithm(public)
    return json.dumps(dict(public.members)).encode() if public.members else public.spki()


def jwe_key(data: bytes) -> JweKey:
    """Read one public key.

    Raises:
        KeyFileError: it is not a single public key to which a JWE can be wrapped.
    """
    public, *others = parse_public_keys(data)
    if others:
        raise KeyFileError("it holds several keys")
    if not isinstance(public.key, rsa.RSAPublicKey):
        check_curve(public.key)
    elif public.key.key_size < limits.WEAK_RSA_BITS:
        raise KeyFileError(f"its RSA key has {public.key.key_size} bits; at least {limits.WEAK_RSA_BITS} are required")
    return JweKey(public.key, _algorithm(public), _key_id(public))


def _algorithm(public: PublicKey) -> str:
    """Return the key algorithm: the JWK's own, or the default for the type of key."""
    fitting, default = (
        (RSA_HASHES, "RSA-OAEP") if isinstance(public.key, rsa.RSAPublicKey) else (ECDH_KEY_BYTES, "ECDH-ES+A256KW")
    )
    own = public.members.get("alg")
    if own is None or (own in _SAME_FAMILY and default.startswith(str(own))):
        return default
    if not isinstance(own, str) or own not in fitting:
        raise KeyFileError(f"it is a JWK whose alg is {quoted(own)}; layers are wrapped with {', '.join(fitting)}")
    return own


def _key_id(public: PublicKey) -> str:
    """Return the key ID: the JWK's own unless it is too long, otherwise the key's fingerprint."""
    own = public.members.get("kid")
    if isinstance(own, str) and 0 < len(own) <= limits.JWE_KEY_ID_CHARACTERS:
        return own
    return public_fingerprint(public.key)
