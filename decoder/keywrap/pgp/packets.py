"""Packets, the fields in them, and the ASCII armour around them (RFC 9580 §3, §4, §6).

Every function raises ValueError for malformed input; the text calls the input "it".
"""

from __future__ import annotations

from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Iterator

from decoder.record import Record

# Packet types (RFC 9580 §5), and one that only GnuPG has (GNUPG_AEAD).
PKESK, SIGNATURE, SKESK, ONE_PASS_SIGNATURE, SECRET_KEY, PUBLIC_KEY, SECRET_SUBKEY = range(1, 8)
COMPRESSED, SED, MARKER, LITERAL, USER_ID, PUBLIC_SUBKEY = 8, 9, 10, 11, 13, 14
SEIPD, GNUPG_AEAD, PADDING = 18, 20, 21
_WITH_PARTIAL_LENGTHS = (COMPRESSED, SED, LITERAL, SEIPD, GNUPG_AEAD)


class Packet(Record):
    """One packet.

    Attributes:
        tag: the packet's type.
        body: its content, with the parts of partial lengths joined.
        raw: the whole packet as it was encoded.
    """

    tag: int
    body: bytes
    raw: bytes


def split(data: bytes, most: int) -> Iterator[Packet]:
    """Yield the packets in `data` (RFC 9580 §4.2).

    Args:
        data: packets without armour.
        most: how many there may be.

    Raises:
        ValueError: there are more, or one is malformed or cut short.
    """
    at = number = 0
    while at < len(data):
        number += 1
        if number > most:
            raise ValueError(f"it has more than {most} packets")
        start, first = at, data[at]
        if not first & 0x80:
            if not data[at:].strip():
                return  # editors and shells add a line break
            raise ValueError("it holds something other than packets")
        if first & 0x40:
            tag = first & 0x3F
            body, at = _body(data, at + 1, tag in _WITH_PARTIAL_LENGTHS)
        else:
            tag = first >> 2 & 0x0F
            body, at = _legacy_body(data, at + 1, first & 3)
        yield Packet(tag, body, data[start:at])


def split_message(data: bytes, most: int) -> Iterator[Packet]:
    """Split an encrypted message into packets; what follows the encrypted data is ignored, as the reference does."""
    for packet in split(data, most):
        yield packet
        if packet.tag == SEIPD:
            return


def _body(data: bytes, at: int, partial: bool) -> tuple[bytes, int]:
    """Read a packet's content after its tag (RFC 9580 §4.2.1); return it and the next offset."""
    parts = []
    while True:
        first = byte(data, at)
        if first < 192:
            size, at = first, at + 1
        elif first < 224:
            size, at = ((first - 192) << 8) + byte(data, at + 1) + 192, at + 2
        elif first == 255:
            size, at = int.from_bytes(part(data, at + 1, 4)), at + 5
        elif partial:
            size, at = 1 << (first & 0x1F), at + 1
        else:
            raise ValueError("a packet has a partial length that its type must not have")
        parts.append(part(data, at, size))
        at += size
        if not 224 <= first < 255:
            return b"".join(parts), at


def _legacy_body(data: bytes, at: int, kind: int) -> tuple[bytes, int]:
    """Read a packet's content in the legacy format (RFC 9580 §4.2.2); one without a length ends with the data."""
    if kind == 3:
        return data[at:], len(data)
    width = 1 << kind
    size = int.from_bytes(part(data, at, width))
    return part(data, at + width, size), at + width + size


def part(data: bytes, at: int, size: int) -> bytes:
    """Read `size` bytes from the offset `at`.

    Raises:
        ValueError: there are fewer.
    """
    found = data[at : at + size]
    if size < 0 or len(found) != size:
        raise ValueError("it ends too early")
    return found


def byte(data: bytes, at: int) -> int:
    """Read the byte at the offset `at`.

    Raises:
        ValueError: there is none.
    """
    return part(data, at, 1)[0]


def mpis(data: bytes, at: int, count: int) -> tuple[list[bytes], int]:
    """Read multiprecision integers (RFC 9580 §3.2), whose lengths may count leading zero bits, as in Go.

    Returns:
        `count` of them from the offset `at`, big-endian without leading zeros, and the offset behind them.

    Raises:
        ValueError: one is cut short.
    """
    found = []
    for _ in range(count):
        size = (int.from_bytes(part(data, at, 2)) + 7) // 8
        found.append(part(data, at + 2, size).lstrip(b"\0"))
        at += 2 + size
    return found, at


def dearmoured(data: bytes) -> bytes:
    """Join the contents of all ASCII armour in a file (RFC 9580 §6.2); a file without armour is binary.

    White space around lines is ignored. The checksum is optional, and is not checked.

    Raises:
        ValueError: it holds something other than base64.
    """
    if data[:1] >= b"\x80" or b"-----BEGIN PGP " not in data:
        return data
    found = []
    lines = b"\n".join(line.strip() for line in data.split(b"\n"))
    for block in lines.split(b"-----BEGIN PGP ")[1:]:
        text = block.partition(b"\n-----END PGP ")[0].partition(b"\n\n")[2]
        try:
            found.append(a2b_base64(text.partition(b"\n=")[0].replace(b"\n", b""), strict_mode=True))
        except Base64Error as error:
            raise ValueError("its armour holds something other than base64") from error
    return b"".join(found)
