"""AES-256-GCM and AES-256-CTR that share no code with the project: one AES block at a time, all else by hand."""

from __future__ import annotations

import hmac

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

_BLOCK = 16
_GCM_COUNTER = (1).to_bytes(4, "big")  # NIST SP 800-38D §7.1: J0 of a 12-byte IV
_POLYNOMIAL = 0xE1 << 120


def ctr(key: bytes, counter: bytes, data: bytes) -> bytes:
    """Encrypt or decrypt with AES-256-CTR and a 16-byte first counter block."""
    first = int.from_bytes(counter, "big")
    stream = b"".join(
        _encrypt_block(key, ((first + number) % (1 << 128)).to_bytes(_BLOCK, "big"))
        for number in range(-(-len(data) // _BLOCK))
    )
    return bytes(mask ^ byte for mask, byte in zip(stream, data, strict=False))


def gcm_seal(key: bytes, iv: bytes, data: bytes) -> bytes:
    """Encrypt with AES-256-GCM, a 12-byte IV and no additional data; the tag comes last."""
    ciphertext = ctr(key, iv + (2).to_bytes(4, "big"), data)
    return ciphertext + _tag(key, iv, ciphertext)


def gcm_open(key: bytes, iv: bytes, data: bytes) -> bytes:
    """Decrypt what `gcm_seal` makes."""
    ciphertext, tag = data[:-_BLOCK], data[-_BLOCK:]
    assert hmac.compare_digest(_tag(key, iv, ciphertext), tag)
    return ctr(key, iv + (2).to_bytes(4, "big"), ciphertext)


def _tag(key: bytes, iv: bytes, ciphertext: bytes) -> bytes:
    subkey = int.from_bytes(_encrypt_block(key, bytes(_BLOCK)), "big")
    padded = ciphertext + bytes(-len(ciphertext) % _BLOCK) + (8 * len(ciphertext)).to_bytes(_BLOCK, "big")
    hashed = 0
    for start in range(0, len(padded), _BLOCK):
        hashed = _product(hashed ^ int.from_bytes(padded[start : start + _BLOCK], "big"), subkey)
    return ctr(key, iv + _GCM_COUNTER, hashed.to_bytes(_BLOCK, "big"))


def _product(left: int, right: int) -> int:
    """Multiply in GF(2^128) (NIST SP 800-38D §6.3)."""
    product = 0
    for bit in range(127, -1, -1):
        if left >> bit & 1:
            product ^= right
        right = right >> 1 ^ (_POLYNOMIAL if right & 1 else 0)
    return product


def _encrypt_block(key: bytes, block: bytes) -> bytes:
    return Cipher(algorithms.AES256(key), modes.ECB()).encryptor().update(block)
