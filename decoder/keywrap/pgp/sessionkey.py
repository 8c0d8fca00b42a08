"""Session keys, encrypted to public keys: packets of version 3 (RFC 9580 §5.1)."""

from __future__ import annotations

import hashlib
from hmac import compare_digest
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

from decoder.keywrap.pgp.algorithms import CURVE25519, ECDH, HASHES, KEY_BYTES, OTHER_CURVES, RSA, checksum
from decoder.keywrap.pgp.packets import byte, mpis, part
from decoder.record import Record

if TYPE_CHECKING:
    from decoder.keywrap.pgp.secretkey import SecretKey

_HIDDEN = bytes(8)


class EncryptedSessionKey(Record):
    """A session key for one recipient.

    Attributes:
        key_id: the ID of the key that opens it, 8 bytes; zeros for a hidden recipient.
        algorithm: the algorithm of that key.
        encrypted: the rest of the packet.
    """

    key_id: bytes
    algorithm: int
    encrypted: bytes

    def may_be_for(self, key: SecretKey) -> bool:
        """Check whether it names this key, or is for a hidden recipient with the algorithm of this key."""
        return self.key_id in (key.key_id, _HIDDEN) and (self.algorithm in RSA) == (key.algorithm in RSA)


def parse_session_key(body: bytes) -> EncryptedSessionKey:
    """Parse the content of a packet of version 3.

    Raises:
        ValueError: it is cut short.
    """
    return EncryptedSessionKey(part(body, 1, 8), byte(body, 9), body[10:])


def decrypt_session_key(key: SecretKey, secret: list[bytes], encrypted: bytes) -> bytes:
    """Decrypt a session key (RFC 9580 §5.1.3, §5.1.5).

    Args:
        key: the key; only its public part is used.
        secret: the key's secret numbers, from `unlock`.
        encrypted: the field of an EncryptedSessionKey.

    Returns:
        The number of the cipher in one byte, then a key of that cipher's size.

    Raises:
        ValueError: it was encrypted to another key, or is malformed; callers must not reveal which.
    """
    decrypt = _decrypt_rsa if key.algorithm in RSA else _decrypt_ecdh
    try:
        plain = decrypt(key, secret, encrypted)
    except (InvalidUnwrap, UnsupportedAlgorithm) as error:
        raise ValueError("no session key") from error
    if len(plain) < 3 or KEY_BYTES.get(plain[0]) != len(plain) - 3:
        raise ValueError("no session key")
    if not compare_digest(checksum(plain[1:-2]), plain[-2:]):
        raise ValueError("no session key")
    return plain[:-2]


def _decrypt_rsa(key: SecretKey, secret: list[bytes], encrypted: bytes) -> bytes:
    (number,), _ = mpis(encrypted, 0, 1)
    modulus, exponent = map(int.from_bytes, key.numbers)
    # OpenPGP has the inverse of p modulo q, other formats that of q modulo p, so p and q are swapped.
    d, q, p, inverse = map(int.from_bytes, secret)
    public = rsa.RSAPublicNumbers(exponent, modulus)
    numbers = rsa.RSAPrivateNumbers(p, q, d, rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), inverse, public)
    # Validation would take 36 ms; if the numbers are inconsistent, the MDC does not match.
    private = numbers.private_key(unsafe_skip_rsa_key_validation=True)
    # An MPI has no leading zeros, but PKCS #1 needs the length of the modulus.
    return private.decrypt(number.rjust((private.key_size + 7) // 8, b"\0"), padding.PKCS1v15())


def _decrypt_ecdh(key: SecretKey, secret: list[bytes], encrypted: bytes) -> bytes:
    """Derive a key with ECDH (RFC 9580 §11.4), unwrap the session key with it, and remove the padding (§11.5)."""
    (point,), at = mpis(encrypted, 0, 1)
    name, size = HASHES.get(byte(key.kdf, 2)), KEY_BYTES.get(byte(key.kdf, 3))
    if name is None or size is None:
        raise ValueError("an unknown hash or cipher")
    curve = bytes([len(key.curve)]) + key.curve
    parameters = curve + bytes([ECDH]) + key.kdf + b"Anonymous Sender    " + key.fingerprint
    kek = hashlib.new(name, b"\0\0\0\1" + _shared_secret(key, secret[0], point) + parameters).digest()[:size]
    plain = aes_key_unwrap(kek, part(encrypted, at + 1, byte(encrypted, at)))
    return plain[: -plain[-1]]  # the last byte is the length of the padding; the checksum detects a wrong one


def _shared_secret(key: SecretKey, secret: bytes, point: bytes) -> bytes:
    if key.curve == CURVE25519:
        from cryptography.hazmat.primitives.asymmetric import x25519

        # OpenPGP has the scalar in big-endian order, and the byte 0x40 before the point (RFC 9580 §11.2, §11.3).
        private = x25519.X25519PrivateKey.from_private_bytes(secret.rjust(32, b"\0")[::-1])
        return private.exchange(x25519.X25519PublicKey.from_public_bytes(point[1:]))
    if key.curve not in OTHER_CURVES:
        raise ValueError("an unknown curve")
    curve = OTHER_CURVES[key.curve]
    ephemeral = ec.EllipticCurvePublicKey.from_encoded_point(curve, point)
    return ec.derive_private_key(int.from_bytes(secret), curve).exchange(ec.ECDH(), ephemeral)
