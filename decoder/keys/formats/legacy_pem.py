"""Encrypted legacy PEM (RFC 1421 §4.6.1.3, OpenSSL's `-traditional`): the ciphers that the reference reads.

The format has no integrity check: a wrong password shows only in bad padding, or in content that is not a key.
"""

from __future__ import annotations

from binascii import Error, unhexlify

from decoder.errors import KeyFileError, quoted

# The size of each cipher's key and block, in bytes. Single DES is done as 3DES with the same key three times.
_CIPHERS = {
    "AES-128-CBC": (16, 16),
    "AES-192-CBC": (24, 16),
    "AES-256-CBC": (32, 16),
    "DES-EDE3-CBC": (24, 8),
    "DES-CBC": (8, 8),
}
_SALT_BYTES = 8


def decrypt(dek_info: str, ciphertext: bytes, password: bytes) -> bytes:
    """Decrypt the content of a PEM block.

    Args:
        dek_info: the value of the header DEK-Info: the cipher, and the IV in hexadecimal digits.
        ciphertext: the decoded content.
        password: the key's password.

    Raises:
        KeyFileError: the cipher is not supported.
        ValueError: the header is malformed, or the password is wrong.
    """
    from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import AES
    from cryptography.hazmat.primitives.ciphers.modes import CBC
    from cryptography.hazmat.primitives.padding import PKCS7

    name, _, iv_hex = dek_info.partition(",")
    if name.strip() not in _CIPHERS:
        raise KeyFileError(f"it is encrypted with the cipher {quoted(name.strip())}, which is not supported")
    key_bytes, block_bytes = _CIPHERS[name.strip()]
    try:
        iv = unhexlify(iv_hex.strip())
    except Error as error:
        raise ValueError("a malformed DEK-Info") from error
    if len(iv) != block_bytes:
        raise ValueError("an IV of a wrong length")
    key = _derive_key(password, iv[:_SALT_BYTES], key_bytes)
    algorithm = AES(key) if block_bytes == 16 else TripleDES((key * 3)[:24])
    decryptor = Cipher(algorithm, CBC(iv)).decryptor()
    unpadder = PKCS7(8 * block_bytes).unpadder()
    return unpadder.update(decryptor.update(ciphertext) + decryptor.finalize()) + unpadder.finalize()


def _derive_key(password: bytes, salt: bytes, size: int) -> bytes:
    """Derive the key as OpenSSL's EVP_BytesToKey does with MD5 and one round; this format knows no other way."""
    import hashlib

    key = digest = b""
    while len(key) < size:
        digest = hashlib.md5(digest + password + salt, usedforsecurity=False).digest()
        key += digest
    return key[:size]
