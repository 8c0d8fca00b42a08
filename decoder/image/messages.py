"""Messages of containerd's services, written and read by hand: fields of numbers, of bytes, and maps of strings.

The numbers of the fields are those of containerd's api/services/{content,images,leases}/v1/*.proto.
"""

from __future__ import annotations

from collections.abc import Mapping

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}
_VARINT_BYTES = 10

Value = int | str | bytes | Mapping[str, str]
Fields = dict[int, list[int | bytes]]


def build(fields: Mapping[int, Value]) -> bytes:
    """Write a message; fields that are 0 or empty are left out, as proto3 has it.

    Args:
        fields: by number: integers of 0 and more, text, bytes or nested messages, maps of text to text.
    """
    parts = []
    for number, value in fields.items():
        if isinstance(value, int):
            if value:
                parts += [_varint(number << 3 | _VARINT), _varint(value)]
            continue
        entries = [build({1: k, 2: v}) for k, v in value.items()] if isinstance(value, Mapping) else [_encoded(value)]
        for entry in entries:
            if entry:
                parts += [_varint(number << 3 | _LENGTH_DELIMITED), _varint(len(entry)), entry]
    return b"".join(parts)


def parse(message: bytes) -> Fields:
    """Read a message: what each field holds, in order, by its number.

    Raises:
        ValueError: it is no protobuf message.
    """
    fields: Fields = {}
    at = 0
    while at < len(message):
        tag, at = _read_varint(message, at)
        value: int | bytes
        if tag & 7 == _VARINT:
            value, at = _read_varint(message, at)
        else:
            if tag & 7 == _LENGTH_DELIMITED:
                length, at = _read_varint(message, at)
            else:
                length = _FIXED_BYTES.get(tag & 7, len(message))
            value = message[at : at + length]
            at += length
            if len(value) != length:
                raise ValueError("a message is cut short")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def nested(fields: Fields, number: int) -> Fields:
    """Read the last message of a field; without any it is empty."""
    return parse(content(fields, number))


def content(fields: Fields, number: int) -> bytes:
    """Return the last bytes of a field, b"" without any."""
    value = fields.get(number, [b""])[-1]
    if not isinstance(value, bytes):
        raise ValueError(f"field {number} is a number")
    return value


def text(fields: Fields, number: int) -> str:
    """Return the last text of a field, "" without any."""
    return content(fields, number).decode()


def integer(fields: Fields, number: int) -> int:
    """Return the last number of a field, 0 without any."""
    value = fields.get(number, [0])[-1]
    if not isinstance(value, int):
        raise ValueError(f"field {number} is no number")
    return value


def mapping(fields: Fields, number: int) -> dict[str, str]:
    """Return a map of text to text."""
    entries = [parse(entry) for entry in fields.get(number, []) if isinstance(entry, bytes)]
    return {text(entry, 1): text(entry, 2) for entry in entries}


def _encoded(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift, byte in enumerate(message[at : at + _VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, at + shift + 1
    raise ValueError("a number is cut short or too long")


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
