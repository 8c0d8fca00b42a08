"""`image keygen`: create a key pair for JWE (RFC 7518 §4.3 and §4.6)."""

from __future__ import annotations

import os
from typing import NamedTuple

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from decoder.errors import ImageError, UsageError, quoted
from decoder.node.newfile import write_new

_CURVES: dict[str, ec.EllipticCurve] = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1()}
_RSA_BITS = 3072
_EXPONENT = 65537


class KeyPair(NamedTuple):
    """The paths of a private key and its public key."""

    private: str
    public: str


def make_key_pair(name: str, kind: str) -> KeyPair:
    """Create a key pair in two new files: NAME.key (PKCS#8 in PEM, mode 0600) and NAME.pub (mode 0644).

    Args:
        name: the path without suffixes.
        kind: `rsa3072`, `p256`, `p384` or `p521`.

    Raises:
        UsageError: one of the files exists.
        ImageError: a file cannot be written.
    """
    pair = KeyPair(f"{name}.key", f"{name}.pub")
    for path in pair:
        if os.path.lexists(path):
            raise UsageError(f"{quoted(path)} exists and is not replaced: choose another NAME, or remove the file")
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    key = ec.generate_private_key(_CURVES[kind]) if kind in _CURVES else rsa.generate_private_key(_EXPONENT, _RSA_BITS)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    _write(pair.private, private, 0o600)
    try:
        _write(pair.public, public, 0o644)
    except ImageError:
        os.unlink(pair.private)
        raise
    return pair


def _write(path: str, data: bytes, mode: int) -> None:
    try:
        write_new(path, data, mode)
    except OSError as error:
        raise ImageError(f"{quoted(path)}: {error.strerror}") from error
