"""Encrypted messages: their structure, the integrity of their data, and the literal data inside."""

from __future__ import annotations

import hashlib
from hmac import compare_digest

from decoder import limits
from decoder.keywrap.pgp import packets
from decoder.keywrap.pgp.algorithms import block_bytes, decrypt_cfb
from decoder.keywrap.pgp.packets import byte
from decoder.keywrap.pgp.sessionkey import EncryptedSessionKey, parse_session_key
from decoder.record import Record

_MDC_HEADER = b"\xd3\x14"
_MDC_BYTES = 22  # with its header


class Message(Record):
    """An encrypted message.

    Attributes:
        session_keys: the session keys of version 3, from 1 to PGP_RECIPIENTS.
        data: the encrypted data, with integrity protection (version 1).
    """

    session_keys: list[EncryptedSessionKey]
    data: bytes

    def wanted(self) -> str:
        """Return the recipients' key IDs, for an error."""
        return ", ".join(sorted({session_key.key_id.hex().upper() for session_key in self.session_keys}))


def parse_message(data: bytes) -> Message:
    """Parse an encrypted message (RFC 9580 §10.3): session keys, then data, and nothing more.

    Args:
        data: the message, binary.

    Raises:
        ValueError: it is malformed, not encrypted, encrypted to no public key, or without integrity protection.
    """
    found = list(packets.split_message(data, limits.PGP_PACKETS))
    if not found:
        raise ValueError("it is empty")
    session_keys = []
    for packet in found[:-1]:
        if packet.tag == packets.PKESK and packet.body[:1] == b"\3":
            session_keys.append(parse_session_key(packet.body))
        elif packet.tag not in (packets.PKESK, packets.SKESK, packets.MARKER, packets.PADDING):
            raise ValueError(_why_not(packet.tag))
    last = found[-1]
    if last.tag != packets.SEIPD:
        raise ValueError(_why_not(last.tag))
    if last.body[:1] != b"\1":
        raise ValueError(_why_not_version(last.body[:1]))
    if not session_keys:
        raise ValueError("it is not encrypted to any public key")
    if len(session_keys) > limits.PGP_RECIPIENTS:
        raise ValueError(f"it has more than {limits.PGP_RECIPIENTS} recipients")
    return Message(session_keys, last.body[1:])


def _why_not(tag: int) -> str:
    if tag in (packets.LITERAL, packets.COMPRESSED, packets.SIGNATURE, packets.ONE_PASS_SIGNATURE):
        return "it is not encrypted"
    if tag == packets.SED:
        return "its encrypted data has no integrity protection"
    if tag == packets.GNUPG_AEAD:
        return "its encrypted data is in GnuPG's own form; `gpg --rfc4880` writes the standard one"
    return f"a packet of type {tag} is out of place"


def _why_not_version(version: bytes) -> str:
    if version == b"\2":
        return "its encrypted data is of version 2 (RFC 9580, AEAD), which GnuPG and the reference do not read either"
    return "its encrypted data has an unknown version"


def decrypt_data(session_key: bytes, data: bytes) -> bytes:
    """Decrypt the data of a message, and check its modification detection code (RFC 9580 §5.13.1).

    Args:
        session_key: the result of `decrypt_session_key`.
        data: the data of a Message.

    Returns:
        The packets inside, authenticated.

    Raises:
        ValueError: the session key is wrong, or the data was changed.
    """
    cipher = session_key[0]
    prefix_bytes = block_bytes(cipher) + 2
    plain = decrypt_cfb(cipher, session_key[1:], bytes(block_bytes(cipher)), data)
    if len(plain) < prefix_bytes + _MDC_BYTES or plain[-_MDC_BYTES:-20] != _MDC_HEADER:
        raise ValueError("no MDC")
    if not compare_digest(hashlib.sha1(plain[:-20], usedforsecurity=False).digest(), plain[-20:]):
        raise ValueError("a wrong MDC")
    return plain[prefix_bytes:-_MDC_BYTES]


def literal_data(content: bytes, depth: int = 0) -> bytes:
    """Find the literal data in decrypted packets (RFC 9580 §5.9), which may be signed and compressed.

    Args:
        content: the packets.
        depth: how often they have been decompressed, at most PGP_NESTING.

    Returns:
        The literal data, at most PRIVATE_OPTIONS_BYTES.

    Raises:
        ValueError: there is not exactly one piece of literal data, it is longer, or a packet is malformed.
    """
    skipped = (packets.SIGNATURE, packets.ONE_PASS_SIGNATURE, packets.MARKER, packets.PADDING)
    found = [packet for packet in packets.split(content, limits.PGP_PACKETS) if packet.tag not in skipped]
    if len(found) != 1:
        raise ValueError("it does not hold exactly one piece of literal data")
    tag, body, _ = found[0]
    if tag == packets.COMPRESSED and depth < limits.PGP_NESTING:
        return literal_data(_decompressed(body), depth + 1)
    if tag != packets.LITERAL:
        raise ValueError(f"a packet of type {tag} is out of place")
    start = 2 + byte(body, 1) + 4
    if not limits.PRIVATE_OPTIONS_BYTES >= len(body) - start >= 0:
        raise ValueError(f"it is cut short, or longer than {limits.PRIVATE_OPTIONS_BYTES} bytes")
    return body[start:]


def _decompressed(body: bytes) -> bytes:
    """Decompress a packet (RFC 9580 §5.6) to at most twice PRIVATE_OPTIONS_BYTES, which leaves room for signatures."""
    import bz2
    import zlib

    most = 2 * limits.PRIVATE_OPTIONS_BYTES
    algorithm = byte(body, 0)
    if algorithm == 0:
        return body[1:]
    if algorithm not in (1, 2, 3):
        raise ValueError("it is compressed in an unknown way")
    # ZIP is ZLIB without header and checksum.
    decompressor = bz2.BZ2Decompressor() if algorithm == 3 else zlib.decompressobj(-15 if algorithm == 1 else 15)
    try:
        plain = decompressor.decompress(body[1:], most + 1)
    except (zlib.error, OSError) as error:
        raise ValueError("it is compressed, and damaged") from error
    if len(plain) > most:
        raise ValueError(f"it is longer than {most} bytes")
    if not decompressor.eof:
        raise ValueError("it is compressed, and cut short")
    return plain
