"""Encrypted PKCS#8 with the scheme PBES2 (RFC 8018 §6.2).

This decrypts keys that cryptography decrypts but then rejects, because it does not support the key inside, and contents
of PKCS#12 in which that library finds at most one key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from decoder import limits
from decoder.formats.ber import INTEGER, OCTET_STRING, OID, SEQUENCE, Reader

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import BlockCipherAlgorithm

_PBES2 = bytes.fromhex("2a864886f70d01050d")  # 1.2.840.113549.1.5.13
_PBKDF2 = bytes.fromhex("2a864886f70d01050c")  # 1.2.840.113549.1.5.12
_SCRYPT = bytes.fromhex("2b06010401da47040b")  # 1.3.6.1.4.1.11591.4.11 (RFC 7914 §7)
_TRIPLE_DES = bytes.fromhex("2a864886f70d0307")  # 1.2.840.113549.3.7
_CIPHERS = {  # bytes of the key
    _TRIPLE_DES: 24,
    bytes.fromhex("608648016503040102"): 16,  # 2.16.840.1.101.3.4.1.2: AES-128-CBC
    bytes.fromhex("608648016503040116"): 24,
    bytes.fromhex("60864801650304012a"): 32,
}
# RFC 8018 §B.1.1, B.1.2: 1.2.840.113549.2.n
_HMACS = {b"\7": "SHA1", b"\x08": "SHA224", b"\x09": "SHA256", b"\x0a": "SHA384", b"\x0b": "SHA512"}


def decrypt(data: bytes, password: bytes) -> bytes:
    """Decrypt EncryptedPrivateKeyInfo.

    Args:
        data: DER, whose key derivation may take at most KDF_ITERATIONS, or KDF_BYTES of memory.
        password: the key's password.

    Returns:
        PKCS#8.

    Raises:
        ValueError: it is malformed, of another scheme, or the password does not fit.
    """
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.modes import CBC
    from cryptography.hazmat.primitives.padding import PKCS7

    fields = Reader(Reader(data).take(SEQUENCE).value)
    scheme, parameters = _algorithm(fields)
    if scheme != _PBES2:
        raise ValueError("it is not encrypted with PBES2")
    parts = Reader(parameters.take(SEQUENCE).value)
    derivation, derivation_parameters = _algorithm(parts)
    cipher, cipher_parameters = _algorithm(parts)
    if cipher not in _CIPHERS or derivation not in (_PBKDF2, _SCRYPT):
        raise ValueError("it is encrypted in another way")
    derive = _pbkdf2 if derivation == _PBKDF2 else _scrypt
    key = derive(Reader(derivation_parameters.take(SEQUENCE).value), password, _CIPHERS[cipher])
    block = _block_cipher(cipher, key)
    decryptor = Cipher(block, CBC(cipher_parameters.take(OCTET_STRING).value)).decryptor()
    unpadder = PKCS7(block.block_size).unpadder()
    return (
        unpadder.update(decryptor.update(fields.take(OCTET_STRING).value) + decryptor.finalize()) + unpadder.finalize()
    )


def is_sequence(plain: bytes) -> bool:
    """Check whether decrypted data is one SEQUENCE, as PKCS#8 is: one wrong password in 256 leaves good padding."""
    try:
        reader = Reader(plain)
        reader.take(SEQUENCE)
        reader.end()
    except ValueError:
        return False
    return True


def _algorithm(fields: Reader) -> tuple[bytes, Reader]:
    """Read an AlgorithmIdentifier; return its OID, and a reader of its parameters."""
    inside = Reader(fields.take(SEQUENCE).value)
    return inside.take(OID).value, inside


def _block_cipher(cipher: bytes, key: bytes) -> BlockCipherAlgorithm:
    from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
    from cryptography.hazmat.primitives.ciphers.algorithms import AES

    return TripleDES(key) if cipher == _TRIPLE_DES else AES(key)


def _pbkdf2(parameters: Reader, password: bytes, size: int) -> bytes:
    """Derive the key with PBKDF2 (RFC 8018 §A.2); the hash is SHA-1 if the parameters name none."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

    salt, iterations = parameters.take(OCTET_STRING).value, _integer(parameters)
    _check(iterations, limits.KDF_ITERATIONS)
    parameters.optional(INTEGER)  # keyLength; the cipher determines it
    name = "SHA1"
    if function := parameters.optional(SEQUENCE):
        name = _HMACS.get(Reader(function.value).take(OID).value[-1:], "")
        if not name:
            raise ValueError("its key derivation has another hash")
    return PBKDF2HMAC(getattr(hashes, name)(), size, salt, iterations).derive(password)


def _scrypt(parameters: Reader, password: bytes, size: int) -> bytes:
    """Derive the key with scrypt (RFC 7914 §7)."""
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    salt = parameters.take(OCTET_STRING).value
    cost, block, parallel = (_integer(parameters) for _ in range(3))
    _check(128 * cost * block * parallel, limits.KDF_BYTES)
    return Scrypt(salt=salt, length=size, n=cost, r=block, p=parallel).derive(password)


def _check(wanted: int, most: int) -> None:
    if not 0 < wanted <= most:
        raise ValueError("its key derivation takes too much")


def _integer(fields: Reader) -> int:
    return int.from_bytes(fields.take(INTEGER).value)
