"""Secret keys of version 4: finding them in a file, and unlocking them with its passphrase (RFC 9580 §5.5)."""

from __future__ import annotations

import hashlib
from hmac import compare_digest
from typing import TYPE_CHECKING

from decoder import limits
from decoder.errors import KeyFileError, NoPasswordError
from decoder.keywrap.pgp import packets
from decoder.keywrap.pgp.algorithms import (
    CURVE25519,
    ECDH,
    HASHES,
    KEY_BYTES,
    OTHER_CURVES,
    RSA,
    UNSUPPORTED,
    UNSUPPORTED_CIPHERS,
    block_bytes,
    checksum,
    decrypt_cfb,
)
from decoder.keywrap.pgp.packets import byte, mpis, part

if TYPE_CHECKING:
    from decoder.keys.file import KeyMaterial

_AEAD, _SHA1_CHECKED, _SUM_CHECKED = (
    253,
    254,
    255,
)  # RFC 9580 §3.7.2.1: the checksums after the numbers that a passphrase protects
_SIMPLE, _SALTED, _ITERATED, _ARGON2 = 0, 1, 3, 4
_GNU_STUB = 101


class SecretKey:
    """A secret key or subkey of version 4 that can decrypt, from a file that may hold several.

    Args:
        material: the file.
        body: the content of the key packet (RFC 9580 §5.5.3), for RSA or ECDH.

    Raises:
        ValueError: it is malformed, or its modulus is longer than 16384 bits.
    """

    def __init__(self, material: KeyMaterial, body: bytes) -> None:
        self.material = material
        self.algorithm = byte(body, 5)
        if self.algorithm in RSA:
            self.numbers, end = mpis(body, 6, 2)
            if len(self.numbers[0]) > limits.PGP_RSA_BYTES:
                raise ValueError(f"it has an RSA key of more than {8 * limits.PGP_RSA_BYTES} bits")
        else:
            self.curve = part(body, 7, byte(body, 6))
            _, at = mpis(body, 7 + len(self.curve), 1)
            self.kdf = part(body, at, 1 + byte(body, at))
            end = at + len(self.kdf)
        self.public, self.secret = body[:end], body[end:]
        self.fingerprint = fingerprint(self.public)
        self.key_id = self.fingerprint[-8:]

    def describe(self) -> str:
        """Name the key for a message: its origin, type and key ID."""
        if self.algorithm in RSA:
            kind = f"RSA {8 * len(self.numbers[0])}"
        elif self.curve in OTHER_CURVES:
            kind = f"ECDH {OTHER_CURVES[self.curve].name}"
        else:
            kind = "ECDH Curve25519" if self.curve == CURVE25519 else "ECDH of another curve"
        return f"{self.material.name} ({kind}, key ID {self.key_id.hex().upper()})"


def find_secret_keys(material: KeyMaterial) -> list[SecretKey]:
    """Return the keys in a file that can decrypt, subkeys first, because primary keys seldom can.

    Args:
        material: OpenPGP secret keys, binary or armoured, at most KEY_FILE_BYTES.

    Raises:
        KeyFileError: the file has no such key, or is malformed.
    """
    if len(material.data) > limits.KEY_FILE_BYTES:
        raise KeyFileError(f"it is larger than {limits.KEY_FILE_BYTES} bytes")
    found: dict[int, list[SecretKey]] = {packets.SECRET_SUBKEY: [], packets.SECRET_KEY: []}
    others: dict[str, None] = {}
    try:
        for tag, body, _ in packets.split(packets.dearmoured(material.data), limits.PGP_PACKETS):
            if tag in found and body[:1] == b"\4" and byte(body, 5) in (*RSA, ECDH):
                found[tag].append(SecretKey(material, body))
            elif tag in found:
                others[_type_name(body)] = None
    except ValueError as error:
        raise KeyFileError(f"it is not an OpenPGP key: {error}") from error
    if not any(found.values()):
        shown = f"its keys are of the types {', '.join(others)}" if others else "it holds no OpenPGP secret key"
        raise KeyFileError(f"{shown}; RSA and ECDH keys of version 4 are supported")
    return found[packets.SECRET_SUBKEY] + found[packets.SECRET_KEY]


def _type_name(body: bytes) -> str:
    """Return the type of a key packet that is not supported, for a message."""
    if body[:1] != b"\4":
        return f"version {byte(body, 0)}"
    return UNSUPPORTED.get(byte(body, 5), f"{byte(body, 5)}")


def fingerprint(public: bytes) -> bytes:
    """Compute the fingerprint of a public key, version 4 (RFC 9580 §5.5.4.2).

    Args:
        public: the content of the public key packet, at most 65535 bytes.

    Raises:
        ValueError: it is longer.
    """
    if len(public) > 0xFFFF:
        raise ValueError("a public key is longer than 65535 bytes")
    return hashlib.sha1(b"\x99" + len(public).to_bytes(2) + public, usedforsecurity=False).digest()


def unlock(key: SecretKey) -> list[bytes]:
    """Decrypt the secret numbers of a key with its file's passphrase (RFC 9580 §5.5.3).

    Returns:
        For RSA d, p, q and the inverse of p modulo q; for ECDH one scalar. They are not validated.

    Raises:
        KeyFileError: the numbers are malformed, stored elsewhere, protected in an unsupported way, or protected by
            another passphrase.
    """
    sources = [bytes([key.algorithm]), key.secret, key.material.password]
    return key.material.kept.parsed(key.material.file, sources, lambda: _unlock(key))


def _unlock(key: SecretKey) -> list[bytes]:
    try:
        usage = byte(key.secret, 0)
        if usage == 0:
            return _checked_numbers(key, key.secret[1:], hashed=False)
        _check_protection(key, usage)
        cipher = key.secret[1]
        derived, at = _from_passphrase(key.secret, key.material.password, KEY_BYTES[cipher])
        size = block_bytes(cipher)
        plain = decrypt_cfb(cipher, derived, part(key.secret, at, size), key.secret[at + size :])
    except ValueError as error:
        raise KeyFileError("its secret part is malformed") from error
    try:
        return _checked_numbers(key, plain, hashed=usage == _SHA1_CHECKED)
    except ValueError as error:
        raise KeyFileError("it is protected by a passphrase, and the one that was given is wrong") from error


def _check_protection(key: SecretKey, usage: int) -> None:
    known = usage in (_SHA1_CHECKED, _SUM_CHECKED)
    if known and byte(key.secret, 2) == _GNU_STUB:
        raise KeyFileError("its secret part is not in this file, but elsewhere or on a card")
    cipher = byte(key.secret, 1) if known else usage  # the oldest form has only the cipher here, and no salt
    if not known or cipher not in KEY_BYTES:
        raise KeyFileError(f"its passphrase protects it with {_protection(usage, cipher)}, which is not supported")
    if not key.material.password:
        raise NoPasswordError("it is protected by a passphrase, and none was given", key.material.advice)


def _protection(usage: int, cipher: int) -> str:
    if usage == _AEAD:
        return "AEAD"
    return UNSUPPORTED_CIPHERS.get(cipher) or ("MD5 alone" if cipher in KEY_BYTES else f"the cipher number {cipher}")


def _checked_numbers(key: SecretKey, plain: bytes, *, hashed: bool) -> list[bytes]:
    numbers, end = mpis(plain, 0, 4 if key.algorithm in RSA else 1)
    expected = hashlib.sha1(plain[:end], usedforsecurity=False).digest() if hashed else checksum(plain[:end])
    if not compare_digest(expected, plain[end:]):
        raise ValueError("a wrong checksum")
    return numbers


def _from_passphrase(secret: bytes, passphrase: bytes, size: int) -> tuple[bytes, int]:
    """Derive a key of `size` bytes with the specifier at offset 2 (RFC 9580 §3.7.1); return it and the next offset."""
    kind, name = byte(secret, 2), HASHES.get(byte(secret, 3))
    if kind not in (_SIMPLE, _SALTED, _ITERATED) or name is None:
        how = "Argon2" if kind == _ARGON2 else f"the key derivation {kind} and the hash number {byte(secret, 3)}"
        raise KeyFileError(f"its passphrase protects it with {how}, which is not supported")
    salt = b"" if kind == _SIMPLE else part(secret, 4, 8)
    end = 4 + len(salt)
    text = salt + passphrase
    count = len(text)
    if kind == _ITERATED:
        coded = byte(secret, end)
        count, end = max(count, (16 + (coded & 15)) << ((coded >> 4) + 6)), end + 1
    repeated = text * (65536 // len(text) + 1)
    derived = b""
    for zeros in range(size):
        digest = hashlib.new(name, bytes(zeros), usedforsecurity=False)
        for _ in range(count // len(repeated)):
            digest.update(repeated)
        digest.update(repeated[: count % len(repeated)])
        derived += digest.digest()
        if len(derived) >= size:
            break
    return derived[:size], end
