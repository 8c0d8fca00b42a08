"""Storing layer keys with a key broker."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from decoder.keywrap.kid import parse_kid

KID = parse_kid("kbs:///default/image_key/nginx")


KEY = bytes(range(100, 132))


ADMIN = ed25519.Ed25519PrivateKey.generate()


def pkcs8(key: ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
