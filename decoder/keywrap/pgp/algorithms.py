"""The accepted algorithms by their numbers (RFC 9580 §9), and operations that several kinds of packet share."""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

# Public keys: RSA for both uses and for encryption alone; ECDH, by its curves.
RSA = (1, 2)
ECDH = 18
CURVE25519 = bytes.fromhex("2b060104019755010501")
OTHER_CURVES: dict[bytes, ec.EllipticCurve] = {
    bytes.fromhex("2a8648ce3d030107"): ec.SECP256R1(),
    bytes.fromhex("2b81040022"): ec.SECP384R1(),
    bytes.fromhex("2b81040023"): ec.SECP521R1(),
    bytes.fromhex("2b8104000a"): ec.SECP256K1(),  # GnuPG writes this one and brainpool too
    bytes.fromhex("2b2403030208010107"): ec.BrainpoolP256R1(),
    bytes.fromhex("2b240303020801010b"): ec.BrainpoolP384R1(),
    bytes.fromhex("2b240303020801010d"): ec.BrainpoolP512R1(),
}
CURVES = {CURVE25519, *OTHER_CURVES}
# Names, for messages, of algorithms whose keys cannot decrypt or are not supported.
UNSUPPORTED = {
    3: "RSA for signatures",
    16: "Elgamal",
    17: "DSA",
    19: "ECDSA",
    22: "EdDSA",
    25: "X25519 of version 6",
    26: "X448",
    27: "Ed25519",
    28: "Ed448",
}

UNSUPPORTED_CIPHERS = {
    1: "IDEA",
    4: "Blowfish",
    10: "Twofish",
    11: "Camellia-128",
    12: "Camellia-192",
    13: "Camellia-256",
}

_TRIPLE_DES, _CAST5 = 2, 3
KEY_BYTES = {_TRIPLE_DES: 24, _CAST5: 16, 7: 16, 8: 24, 9: 32}  # by cipher; 7 to 9 are AES
HASHES = {2: "sha1", 8: "sha256", 9: "sha384", 10: "sha512", 11: "sha224"}


def block_bytes(cipher: int) -> int:
    """Return the block size of a cipher of KEY_BYTES, in bytes."""
    return 8 if cipher in (_TRIPLE_DES, _CAST5) else 16


def decrypt_cfb(cipher: int, key: bytes, iv: bytes, data: bytes) -> bytes:
    """Decrypt in CFB mode, which does not protect the integrity of data.

    Args:
        cipher: one of KEY_BYTES.
        key: the key, of the size in KEY_BYTES.
        iv: the initialization vector, one block.
        data: the ciphertext, of any length.

    Raises:
        ValueError: the installed library does not have the cipher.
    """
    from cryptography.hazmat.decrepit.ciphers.algorithms import CAST5, TripleDES
    from cryptography.hazmat.decrepit.ciphers.modes import CFB
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import AES

    algorithm = {_TRIPLE_DES: TripleDES, _CAST5: CAST5}.get(cipher, AES)(key)
    try:
        decryptor = Cipher(algorithm, CFB(iv)).decryptor()
    except UnsupportedAlgorithm as error:
        raise ValueError("the installed library does not have this cipher") from error
    return decryptor.update(data) + decryptor.finalize()


def checksum(data: bytes) -> bytes:
    """Return the checksum of session and secret keys: the sum of all bytes modulo 65536 (RFC 9580 §5.1, §5.5.3)."""
    return (sum(data) & 0xFFFF).to_bytes(2)
