"""The payload that containerd writes to descriptor 3: a protobuf Any around JSON. No I/O here."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from decoder import limits, wire
from decoder.errors import PayloadError, quoted

Read = TypeVar("Read")

TYPE_URL = "io.containerd.ocicrypt.v1.Payload"

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5
_VARINT_BYTES = 10


class Descriptor(NamedTuple):
    """What the manifest says of a layer (OCI image-spec, descriptor)."""

    media_type: str
    annotations: dict[str, str]
    digest: str = ""


class Payload(NamedTuple):
    """Keys by parameter name (`privkeys`, `x509s`, …) and the descriptor of the layer."""

    parameters: dict[str, list[bytes]]
    descriptor: Descriptor


def parse_payload(data: bytes) -> Payload:
    """Parse what came on descriptor 3.

    Args:
        data: protobuf `google.protobuf.Any`, at most PAYLOAD_BYTES.

    Raises:
        PayloadError: anything is absent, of a wrong type, or over its limit.
    """
    if not data:
        raise PayloadError("the payload on descriptor 3 is empty")
    if len(data) > limits.PAYLOAD_BYTES:
        raise PayloadError(f"the payload is larger than {limits.PAYLOAD_BYTES} bytes")
    try:
        type_url, value = _parse_any(data)
    except ValueError as error:
        raise PayloadError(f"the payload is not a protobuf Any: {error}") from None
    if type_url.rpartition("/")[2] != TYPE_URL:
        raise PayloadError(f"the payload's type is {quoted(type_url)}, not {TYPE_URL}")
    try:
        return _parse_value(value)
    except ValueError as error:
        raise PayloadError(f"the payload's value: {error}") from None


def build_payload(payload: Payload) -> bytes:
    """Build the bytes that `parse_payload` reads: what a client sends to containerd."""
    parameters = {name: [wire.encode_base64(item) for item in items] for name, items in payload.parameters.items()}
    media_type, annotations, digest = payload.descriptor
    descriptor = {"mediaType": media_type, "digest": digest, "annotations": annotations}
    value = json.dumps({"DecryptConfig": {"Parameters": parameters}, "Descriptor": descriptor}).encode()
    url = TYPE_URL.encode()
    return b"\x0a" + _varint(len(url)) + url + b"\x12" + _varint(len(value)) + value


def _parse_any(data: bytes) -> tuple[str, bytes]:
    """Read fields 1 (type_url) and 2 (value); the last one wins, unknown fields are skipped."""
    fields = {1: b"", 2: b""}
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        number, wire_type = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("a field has number 0")
        if wire_type == _VARINT:
            _, end = _read_varint(data, at)
        elif wire_type == _LENGTH_DELIMITED:
            length, at = _read_varint(data, at)
            end = at + length
        elif wire_type in (_FIXED32, _FIXED64):
            end = at + (4 if wire_type == _FIXED32 else 8)
        else:
            raise ValueError(f"a field has wire type {wire_type}")
        if end > len(data):
            raise ValueError("it is cut short")
        if number in fields:
            if wire_type != _LENGTH_DELIMITED:
                raise ValueError(f"field {number} has wire type {wire_type}")
            fields[number] = data[at:end]
        at = end
    return fields[1].decode(), fields[2]


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


def _parse_value(text: bytes) -> Payload:
    value = wire.parse_object(text)
    config = _in("DecryptConfig", wire.object_value, wire.member(value, "DecryptConfig"))
    descriptor = _in("Descriptor", wire.object_value, wire.member(value, "Descriptor"))
    parameters = _in("DecryptConfig.Parameters", wire.object_value, wire.member(config, "Parameters"))
    return Payload({name: _parameter(name, items) for name, items in parameters.items()}, parse_descriptor(descriptor))


def _parameter(name: str, items: object) -> list[bytes]:
    where = f"DecryptConfig.Parameters[{quoted(name)}]"
    values = _in(where, wire.list_value, items)
    if len(values) > limits.PARAMETER_ENTRIES:
        raise ValueError(f"{where}: more than {limits.PARAMETER_ENTRIES} entries")
    return [_in(f"{where}[{index}]", wire.bytes_value, item) for index, item in enumerate(values)]


def parse_descriptor(value: dict[str, object]) -> Descriptor:
    """Read an OCI descriptor; members that decoding does not need are checked for their type alone.

    Raises:
        ValueError: a member has a wrong type, or an annotation is over its limit.
    """
    media_type = _in("Descriptor.mediaType", wire.text_value, wire.member(value, "mediaType"))
    digest = _in("Descriptor.digest", wire.text_value, wire.member(value, "digest"))
    size = wire.member(value, "size")
    if size is not None and type(size) is not int:
        raise ValueError("Descriptor.size: not an integer")
    annotations = _in("Descriptor.annotations", wire.object_value, wire.member(value, "annotations"))
    return Descriptor(media_type, {name: _annotation(name, text) for name, text in annotations.items()}, digest)


def _annotation(name: str, value: object) -> str:
    where = f"Descriptor.annotations[{quoted(name)}]"
    text = _in(where, wire.text_value, value)
    if len(text) > limits.ANNOTATION_BYTES:
        raise ValueError(f"{where}: longer than {limits.ANNOTATION_BYTES} bytes")
    return text


def _in(where: str, read: Callable[[object], Read], value: object) -> Read:
    try:
        return read(value)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
