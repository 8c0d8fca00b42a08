"""Messages of containerd's services, built and parsed without generated code: numbers, bytes, and maps of strings.

The numbers of the fields are those of containerd's api/services/{content,images,leases}/v1/*.proto.
"""

from __future__ import annotations

from collections.abc import Mapping

from decoder.formats import protobuf

Value = int | str | bytes | Mapping[str, str]
Fields = dict[int, list[int | bytes]]


def build(fields: Mapping[int, Value]) -> bytes:
    """Build a message; fields that are 0 or empty are omitted, as in proto3.

    Args:
        fields: values by field number: integers from 0, text, bytes (also nested messages), and maps of text to text.
    """
    parts = []
    for number, value in fields.items():
        if isinstance(value, int):
            if value:
                parts.append(protobuf.build_varint(number, value))
            continue
        entries = [build({1: k, 2: v}) for k, v in value.items()] if isinstance(value, Mapping) else [_encoded(value)]
        parts += [protobuf.build_bytes(number, entry) for entry in entries if entry]
    return b"".join(parts)


def parse(message: bytes) -> Fields:
    """Parse a message: the values of each field, in order, by its number.

    Raises:
        ValueError: it is not a protobuf message.
    """
    fields: Fields = {}
    for number, value in protobuf.parse_fields(message):
        fields.setdefault(number, []).append(value)
    return fields


def nested(fields: Fields, number: int) -> Fields:
    """Parse the last nested message of a field; return no fields if it is absent.

    Raises:
        ValueError: the field is of another type, or malformed.
    """
    return parse(content(fields, number))


def content(fields: Fields, number: int) -> bytes:
    """Return the last value of a field of bytes; b"" if it is absent.

    Raises:
        ValueError: the field is of another type.
    """
    value = fields.get(number, [b""])[-1]
    if not isinstance(value, bytes):
        raise ValueError(f"field {number} is a number")
    return value


def text(fields: Fields, number: int) -> str:
    """Return the last value of a field of text; "" if it is absent.

    Raises:
        ValueError: the field is of another type, or not UTF-8.
    """
    return content(fields, number).decode()


def integer(fields: Fields, number: int) -> int:
    """Return the last value of a field of integers; 0 if it is absent.

    Raises:
        ValueError: the field is of another type.
    """
    value = fields.get(number, [0])[-1]
    if not isinstance(value, int):
        raise ValueError(f"field {number} is not a number")
    return value


def mapping(fields: Fields, number: int) -> dict[str, str]:
    """Return a field that is a map of text to text; empty if it is absent."""
    entries = [parse(entry) for entry in fields.get(number, []) if isinstance(entry, bytes)]
    return {text(entry, 1): text(entry, 2) for entry in entries}


def _encoded(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value
