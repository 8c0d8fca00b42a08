"""All keys in a PKCS#12 file (RFC 7292); cryptography returns only one.

A key bag holds PKCS#8, which is usually encrypted. Nothing is decrypted here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from decoder import limits
from decoder.formats.ber import (
    CONTEXT,
    EXPLICIT,
    INTEGER,
    OCTET_STRING,
    OID,
    SEQUENCE,
    Element,
    Reader,
    der,
    octets,
    take_octets,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

_ENCRYPTED_DATA = bytes.fromhex("2a864886f70d010706")  # 1.2.840.113549.1.7.6
_DATA = bytes.fromhex("2a864886f70d010701")  # 1.2.840.113549.1.7.1
_BAGS = bytes.fromhex("2a864886f70d010c0a01")  # 1.2.840.113549.1.12.10.1
_KEY_BAG, _SHROUDED_KEY_BAG, _SAFE_CONTENTS_BAG = _BAGS + b"\1", _BAGS + b"\2", _BAGS + b"\6"


def private_keys(data: bytes, password: bytes = b"") -> list[bytes]:
    """Find the PKCS#8 keys, plain or encrypted.

    Args:
        data: the file, BER.
        password: opens encrypted contents, if they are encrypted with PBES2; b"" to leave them alone.

    Returns:
        At most PKCS12_KEYS keys; none if the file is malformed or has its keys elsewhere, which the library detects.
    """
    try:
        fields = Reader(Reader(data).take(SEQUENCE).value)
        fields.take(INTEGER)
        contents = Reader(_content(fields.take(SEQUENCE)) or b"")
        infos = Reader(contents.take(SEQUENCE).value).rest()
        found = _keys(map(_content, infos))
        if not found and password:
            found = _keys(_decrypted(info, password) for info in infos[: limits.PKCS12_ENCRYPTED_CONTENTS])
        return found[: limits.PKCS12_KEYS]
    except ValueError:
        return []


def _keys(safes: Iterable[bytes | None]) -> list[bytes]:
    found: list[bytes] = []
    for safe in filter(None, safes):
        found += _bags(Reader(Reader(safe).take(SEQUENCE).value).rest())
    return found


def _decrypted(info: Element, password: bytes) -> bytes | None:
    """Decrypt a ContentInfo of the type encrypted-data (RFC 5652 §8); what does not open is None."""
    from decoder.keys.formats import pbes2

    fields = Reader(info.value)
    if fields.take(OID).value != _ENCRYPTED_DATA:
        return None
    inside = Reader(Reader(fields.take(EXPLICIT).value).take(SEQUENCE).value)
    inside.take(INTEGER)
    content = Reader(inside.take(SEQUENCE).value)
    content.take(OID)
    algorithm = content.take(SEQUENCE)
    ciphertext = octets(content.take(CONTEXT, EXPLICIT))
    try:
        plain = pbes2.decrypt(der(SEQUENCE, algorithm.encoded, der(OCTET_STRING, ciphertext)), password)
    except ValueError:
        return None
    return plain if pbes2.is_sequence(plain) else None


def _content(info: Element) -> bytes | None:
    """Return the content of a ContentInfo of the type data; None for other types, such as encrypted ones."""
    fields = Reader(info.value)
    if fields.take(OID).value != _DATA:
        return None
    return take_octets(Reader(fields.take(EXPLICIT).value))


def _bags(bags: list[Element], depth: int = 0) -> list[bytes]:
    found: list[bytes] = []
    for bag in bags:
        fields = Reader(bag.value)
        kind = fields.take(OID).value
        value = fields.take(EXPLICIT).value
        if kind in (_KEY_BAG, _SHROUDED_KEY_BAG):
            found.append(value)
        elif kind == _SAFE_CONTENTS_BAG and depth < limits.BER_DEPTH:
            found += _bags(Reader(Reader(value).take(SEQUENCE).value).rest(), depth + 1)
    return found
