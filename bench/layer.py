"""Encrypted layers to measure with: a JWE to one RSA-2048 key, which the payload brings along."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from typing import NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from bench.pipes import ciphertext
from decoder.keywrap import jwe
from decoder.layer import ENCRYPTED, OCI_TAR, PrivateOptions, build_annotations, build_private_options
from decoder.payload import Descriptor, Payload, build_payload

LAYER_KEY, LAYER_NONCE = bytes(range(32)), bytes(range(16))


class Layer(NamedTuple):
    """A layer of `size` bytes: what descriptor 3 gets, and the SHA-256 of its plaintext in hexadecimal."""

    size: int
    payload: bytes
    plain_sha256: str


@cache
def make_layer(size: int) -> Layer:
    """Make the layer whose ciphertext is `bench.pipes.ciphertext(size)`."""
    hmac, plain = HMAC(LAYER_KEY, hashes.SHA256()), sha256()
    cipher = Cipher(algorithms.AES(LAYER_KEY), modes.CTR(LAYER_NONCE)).decryptor()
    for block in ciphertext(size):
        hmac.update(block)
        plain.update(cipher.update(block))
    private, public = _rsa_key()
    options = build_private_options(PrivateOptions(LAYER_KEY, LAYER_NONCE, f"sha256:{plain.hexdigest()}"))
    annotations = build_annotations(hmac.finalize(), {"jwe": [jwe.wrap(options, [public])]})
    descriptor = Descriptor(OCI_TAR + ENCRYPTED, annotations)
    return Layer(
        size,
        build_payload(Payload({"privkeys": [private], "privkeys-passwords": [b""]}, descriptor)),
        plain.hexdigest(),
    )


@cache
def _rsa_key() -> tuple[bytes, bytes]:
    key = rsa.generate_private_key(65537, 2048)
    return (
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    )
