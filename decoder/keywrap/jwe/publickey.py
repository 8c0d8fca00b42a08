"""Public keys that a JWE is wrapped to."""

from __future__ import annotations

from hashlib import sha256

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)
from jwcrypto.common import JWException
from jwcrypto.jwk import JWK

from decoder import limits
from decoder.errors import KeyFileError
from decoder.keys import pem
from decoder.keywrap.jwe.opening import ECDH_KEY_BYTES, RSA_HASHES

_DEFAULT_ALGORITHM = {"RSA": "RSA-OAEP", "EC": "ECDH-ES+A256KW"}


def public_jwk(data: bytes) -> JWK:
    """Read a public key, and give it a `kid` of at most JWE_KEY_ID_CHARACTERS: its own if it came as a JWK.

    Raises:
        KeyFileError: it is not a public key, or neither RSA nor EC.
    """
    try:
        own_id = None
        if data.lstrip()[:1] == b"{":
            key = JWK.from_json(data.decode())
            own_id = key.get("kid")
        elif pem.BEGIN in data:
            key = JWK.from_pem(data)
        else:
            public = load_der_public_key(data)
            if not isinstance(public, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
                raise KeyFileError("it is neither an RSA nor an EC key")
            key = JWK.from_pyca(public)
    except (JWException, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError("it is not a public key in PEM, DER or JWK form") from error
    if key.get("kty") not in _DEFAULT_ALGORITHM:
        raise KeyFileError("it is neither an RSA nor an EC key")
    is_usable = isinstance(own_id, str) and 0 < len(own_id) <= limits.JWE_KEY_ID_CHARACTERS
    key["kid"] = own_id if is_usable else _fingerprint(key)
    return key


def key_algorithm(key: JWK) -> str:
    """Choose the key algorithm: the JWK's own, if it is one that fits its type, or the default."""
    fitting = RSA_HASHES if key["kty"] == "RSA" else ECDH_KEY_BYTES
    own = str(key.get("alg"))
    return own if own in fitting else _DEFAULT_ALGORITHM[str(key["kty"])]


def _fingerprint(key: JWK) -> str:
    """Name the key as messages do: see `privatekey.fingerprint`."""
    public = load_pem_public_key(key.export_to_pem())
    return f"sha256:{sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()}"
