"""Write OpenPGP messages to RSA keys with any content, also with content that no honest program would send."""

from __future__ import annotations

import hashlib
import os
import zlib

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms


def packet(tag: int, body: bytes) -> bytes:
    """Write a packet in the current format (RFC 9580 §4.2.1)."""
    return bytes([0xC0 | tag, 0xFF]) + len(body).to_bytes(4) + body


def mpi(number: int) -> bytes:
    """Write a multiprecision integer (RFC 9580 §3.2)."""
    return number.bit_length().to_bytes(2) + number.to_bytes((number.bit_length() + 7) // 8)


def literal(data: bytes) -> bytes:
    """Write a literal data packet, binary and without a name."""
    return packet(11, b"b\0" + bytes(4) + data)


def deflated(packets: bytes) -> bytes:
    """Write a compressed data packet (ZIP)."""
    compressor = zlib.compressobj(9, wbits=-15)
    return packet(8, b"\1" + compressor.compress(packets) + compressor.flush())


def session_key_packet(key: rsa.RSAPublicKey, key_id: bytes, session_key: bytes) -> bytes:
    """Write a session key for AES-256, version 3; its length counts leading zero bits, as Go's openpgp has it."""
    checksum = (sum(session_key) & 0xFFFF).to_bytes(2)
    encrypted = key.encrypt(b"\x09" + session_key + checksum, padding.PKCS1v15())
    return packet(1, b"\3" + key_id + b"\1" + (8 * len(encrypted)).to_bytes(2) + encrypted)


def message(packets: bytes, key: rsa.RSAPublicKey, key_id: bytes, *, protected: bool = True) -> bytes:
    """Encrypt packets; without protection, as a symmetrically encrypted data packet of old."""
    session_key = os.urandom(32)
    start = os.urandom(16)
    start += start[-2:]
    if protected:
        body = start + packets + b"\xd3\x14"
        data = packet(18, b"\1" + _cfb(session_key, bytes(16), body + hashlib.sha1(body).digest()))
    else:
        head = _cfb(session_key, bytes(16), start)
        data = packet(9, head + _cfb(session_key, head[2:], packets))
    return session_key_packet(key, key_id, session_key) + data


def _cfb(key: bytes, iv: bytes, plaintext: bytes) -> bytes:
    encryptor = Cipher(algorithms.AES256(key), CFB(iv)).encryptor()
    return encryptor.update(plaintext) + encryptor.finalize()
