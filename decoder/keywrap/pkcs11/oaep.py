"""OAEP decoding in software (RFC 8017 §7.1.2), for tokens that only offer the raw RSA operation."""

from __future__ import annotations

import hashlib
from hmac import compare_digest


def unpad(encoded: bytes, hash_name: str) -> bytes:
    """Remove OAEP padding with an empty label; MGF1 uses the same hash.

    The control flow does not depend on any byte of the padding. An attacker who could tell failures apart, by their
    reason or by their time, could decrypt without the key (Manger's attack, RFC 8017 §7.1.2, last note).

    Args:
        encoded: the RSA result, as long as the modulus.
        hash_name: `sha1` or `sha256`.

    Raises:
        ValueError: it is not OAEP-encoded.
    """
    size = hashlib.new(hash_name).digest_size
    if len(encoded) < 2 * size + 2:
        raise ValueError("OAEP decoding failed")
    masked_seed, masked_block = encoded[1 : 1 + size], encoded[1 + size :]
    seed = _xor(masked_seed, _mgf1(masked_block, size, hash_name))
    block = _xor(masked_block, _mgf1(seed, len(masked_block), hash_name))
    wrong = encoded[0] | (not compare_digest(block[:size], hashlib.new(hash_name).digest()))
    start, looking = 0, 1
    for index in range(size, len(block)):
        is_zero = (block[index] - 1) >> 8 & 1
        is_one = ((block[index] ^ 1) - 1) >> 8 & 1
        start += (index + 1) * (looking & is_one)
        wrong |= looking & ~(is_zero | is_one)
        looking &= is_zero
    if wrong | looking:
        raise ValueError("OAEP decoding failed")
    return block[start:]


def _mgf1(seed: bytes, length: int, hash_name: str) -> bytes:
    """RFC 8017 §B.2.1."""
    mask = b""
    counter = 0
    while len(mask) < length:
        mask += hashlib.new(hash_name, seed + counter.to_bytes(4)).digest()
        counter += 1
    return mask[:length]


def _xor(left: bytes, right: bytes) -> bytes:
    return (int.from_bytes(left) ^ int.from_bytes(right)).to_bytes(len(left))
