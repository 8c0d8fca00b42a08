"""The one cipher of encrypted legacy PEM (RFC 1421, OpenSSL's `-traditional`) that the library leaves out.

The reference reads it; AES-128, AES-256 and 3DES are the library's own.
"""

from __future__ import annotations

from binascii import Error, a2b_base64, unhexlify

_HEADER = b"DEK-Info: AES-192-CBC,"
_KEY_BYTES = 24
_BLOCK_BYTES = 16


def decrypt_aes192(block: bytes, password: bytes) -> bytes | None:
    """Decrypt the DER in a PEM block, or return None if it is not encrypted with AES-192-CBC.

    Raises:
        ValueError: the block is malformed, or the password does not fit.
    """
    if _HEADER not in block:
        return None
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.padding import PKCS7

    iv_hex, _, rest = block.partition(_HEADER)[2].partition(b"\n")
    try:
        iv = unhexlify(iv_hex.strip())
        ciphertext = a2b_base64(rest.partition(b"-----END ")[0])
    except Error:
        raise ValueError("a malformed PEM block") from None
    cipher = Cipher(algorithms.AES(_derive_key(password, iv[:8])), modes.CBC(iv)).decryptor()
    unpadder = PKCS7(8 * _BLOCK_BYTES).unpadder()
    return unpadder.update(cipher.update(ciphertext) + cipher.finalize()) + unpadder.finalize()


def _derive_key(password: bytes, salt: bytes) -> bytes:
    """OpenSSL's EVP_BytesToKey with MD5 and one round, which is what this format has."""
    import hashlib

    key = digest = b""
    while len(key) < _KEY_BYTES:
        digest = hashlib.md5(digest + password + salt, usedforsecurity=False).digest()
        key += digest
    return key[:_KEY_BYTES]
