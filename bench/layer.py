"""Encrypted layers to measure with; the payload brings along the key that opens them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from typing import NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hmac import HMAC

from bench.pipes import ciphertext
from bench.schemes import Wrap, jwe_rsa
from decoder.layer.annotations import ENCRYPTED, OCI_TAR, PrivateOptions, build_annotations, build_private_options
from decoder.layer.payload import Descriptor, Payload, build_payload

LAYER_KEY, LAYER_NONCE = bytes(range(32)), bytes(range(16))


class Layer(NamedTuple):
    """A layer of `size` bytes: its payload, its part of the environment, and its plaintext's SHA-256 in hexadecimal."""

    size: int
    payload: bytes
    plain_sha256: str
    environment: Mapping[str, str] = {}


def make_layer(size: int, wrap: Wrap = jwe_rsa) -> Layer:
    """Make the layer whose ciphertext is `bench.pipes.ciphertext(size)`."""
    hmac, plain = _digests(size)
    wrapped = wrap(build_private_options(PrivateOptions(LAYER_KEY, LAYER_NONCE, f"sha256:{plain}")))
    descriptor = Descriptor(OCI_TAR + ENCRYPTED, build_annotations(hmac, wrapped.keys))
    return Layer(size, build_payload(Payload(wrapped.parameters, descriptor)), plain, wrapped.environment)


@cache
def _digests(size: int) -> tuple[bytes, str]:
    """Return the HMAC of the ciphertext, and the SHA-256 of the plaintext."""
    hmac, plain = HMAC(LAYER_KEY, hashes.SHA256()), sha256()
    cipher = Cipher(algorithms.AES(LAYER_KEY), modes.CTR(LAYER_NONCE)).decryptor()
    for block in ciphertext(size):
        hmac.update(block)
        plain.update(cipher.update(block))
    return hmac.finalize(), plain.hexdigest()
