"""All keys in a PKCS#12 file (RFC 7292); cryptography returns only one.

A key bag holds PKCS#8, which is usually encrypted. Nothing is decrypted here.
"""

from __future__ import annotations

from decoder import limits
from decoder.formats.ber import EXPLICIT, INTEGER, OID, SEQUENCE, Element, Reader, take_octets

_DATA = bytes.fromhex("2a864886f70d010701")  # 1.2.840.113549.1.7.1
_BAGS = bytes.fromhex("2a864886f70d010c0a01")  # 1.2.840.113549.1.12.10.1
_KEY_BAG, _SHROUDED_KEY_BAG, _SAFE_CONTENTS_BAG = _BAGS + b"\1", _BAGS + b"\2", _BAGS + b"\6"


def private_keys(data: bytes) -> list[bytes]:
    """Find the PKCS#8 keys, plain or encrypted, that are not within encrypted contents.

    Args:
        data: the file, BER.

    Returns:
        At most PKCS12_KEYS keys. None if the file is malformed or has its keys elsewhere; the caller then lets
        cryptography read the file.
    """
    try:
        fields = Reader(Reader(data).take(SEQUENCE).value)
        fields.take(INTEGER)
        contents = Reader(_content(fields.take(SEQUENCE)) or b"")
        found: list[bytes] = []
        for info in Reader(contents.take(SEQUENCE).value).rest():
            if safe := _content(info):
                found += _bags(Reader(Reader(safe).take(SEQUENCE).value).rest())
        return found[: limits.PKCS12_KEYS]
    except ValueError:
        return []


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
