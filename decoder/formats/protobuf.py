"""The part of protobuf's wire format that short messages need: fields of varints and of bytes."""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5
_VARINT_BYTES = 10


def build_bytes(number: int, value: bytes) -> bytes:
    """Build one field of bytes, or of a string in UTF-8.

    Args:
        number: the field's number.
        value: the field's content.
    """
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(value)) + value


def build_varint(number: int, value: int) -> bytes:
    """Build one field of an integer.

    Args:
        number: the field's number.
        value: 0 or more.
    """
    return _varint(number << 3 | _VARINT) + _varint(value)


def parse_bytes(data: bytes, number: int) -> bytes:
    """Return the last field of bytes with this number, or b"" if there is none; other fields are skipped.

    Raises:
        ValueError: it is not a protobuf message, or the field is of another type.
    """
    start, end = _last(data, number, _LENGTH_DELIMITED)
    return data[start:end]


def parse_varint(data: bytes, number: int) -> int:
    """Return the last integer field with this number, or 0 if there is none; other fields are skipped.

    Raises:
        ValueError: it is not a protobuf message, or the field is of another type.
    """
    start, end = _last(data, number, _VARINT)
    return _read_varint(data, start)[0] if end else 0


def parse_fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the number and the value of each field: an integer for a varint, bytes for any other.

    Raises:
        ValueError: it is not a protobuf message.
    """
    for number, wire_type, start, end in _extents(data):
        yield number, _read_varint(data, start)[0] if wire_type == _VARINT else data[start:end]


def _last(data: bytes, number: int, wire_type: int) -> tuple[int, int]:
    """Return where the value of the last field with this number starts and ends; (0, 0) if there is none."""
    found = 0, 0
    for field, its_type, start, end in _extents(data):
        if field == number:
            if its_type != wire_type:
                raise ValueError(f"field {number} has wire type {its_type}")
            found = start, end
    return found


def _extents(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield each field: number, wire type, and where its value starts and ends."""
    at = 0
    while at < len(data):
        tag, start = _read_varint(data, at)
        if not tag >> 3:
            raise ValueError("a field has number 0")
        start, at = _extent(data, start, tag & 7)
        if at > len(data):
            raise ValueError("it is cut short")
        yield tag >> 3, tag & 7, start, at


def _extent(data: bytes, at: int, wire_type: int) -> tuple[int, int]:
    """Return where the value of a field starts and ends."""
    if wire_type == _VARINT:
        return at, _read_varint(data, at)[1]
    if wire_type == _LENGTH_DELIMITED:
        length, at = _read_varint(data, at)
        return at, at + length
    if wire_type in (_FIXED32, _FIXED64):
        return at, at + (4 if wire_type == _FIXED32 else 8)
    raise ValueError(f"a field has wire type {wire_type}")


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift, byte in enumerate(data[at : at + _VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, at + shift + 1
    raise ValueError("it is cut short" if at + _VARINT_BYTES > len(data) else "a number is too long")


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
