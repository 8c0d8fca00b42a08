"""The payload that containerd writes to descriptor 3: a protobuf Any around JSON. No I/O here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decoder import limits
from decoder.errors import PayloadError, quoted
from decoder.formats import protobuf, wire
from decoder.record import Record

if TYPE_CHECKING:
    from typing import TypeVar

    Read = TypeVar("Read")

TYPE_URL = "io.containerd.ocicrypt.v1.Payload"


class Descriptor(Record):
    """A layer's descriptor in its manifest (OCI image-spec, descriptor.md)."""

    media_type: str
    annotations: dict[str, str]
    digest: str = ""


class Payload(Record):
    """Keys by parameter name (`privkeys`, `x509s`, …) and the descriptor of the layer."""

    parameters: dict[str, list[bytes]]
    descriptor: Descriptor


def parse_payload(data: bytes) -> Payload:
    """Parse the content of descriptor 3.

    Args:
        data: protobuf `google.protobuf.Any`, at most PAYLOAD_BYTES.

    Raises:
        PayloadError: a part is absent, has a wrong type, or exceeds its limit.
    """
    if not data:
        raise PayloadError("the payload on descriptor 3 is empty")
    if len(data) > limits.PAYLOAD_BYTES:
        raise PayloadError(f"the payload is larger than {limits.PAYLOAD_BYTES} bytes")
    try:
        type_url, value = protobuf.parse_bytes(data, 1).decode(), protobuf.parse_bytes(data, 2)
    except ValueError as error:
        raise PayloadError(f"the payload is not a protobuf Any: {error}") from error
    if type_url.rpartition("/")[2] != TYPE_URL:
        raise PayloadError(f"the payload's type is {quoted(type_url)}, not {TYPE_URL}")
    try:
        return _parse_value(value)
    except ValueError as error:
        raise PayloadError(f"the payload's value: {error}") from error


def build_payload(payload: Payload) -> bytes:
    """Build the bytes that `parse_payload` reads, as a client sends them to containerd."""
    parameters = {name: [wire.encode_base64(item) for item in items] for name, items in payload.parameters.items()}
    media_type, annotations, digest = payload.descriptor
    descriptor = {"mediaType": media_type, "digest": digest, "annotations": annotations}
    value = wire.build_json({"DecryptConfig": {"Parameters": parameters}, "Descriptor": descriptor})
    return protobuf.build_bytes(1, TYPE_URL.encode()) + protobuf.build_bytes(2, value)


def _parse_value(text: bytes) -> Payload:
    value = wire.parse_object(text)
    config = wire.named("DecryptConfig", wire.object_value, wire.member(value, "DecryptConfig"))
    descriptor = wire.named("Descriptor", wire.object_value, wire.member(value, "Descriptor"))
    parameters = wire.named("DecryptConfig.Parameters", wire.object_value, wire.member(config, "Parameters"))
    return Payload({name: _parameter(name, items) for name, items in parameters.items()}, parse_descriptor(descriptor))


def _parameter(name: str, items: object) -> list[bytes]:
    where = f"DecryptConfig.Parameters[{quoted(name)}]"
    values = wire.named(where, wire.list_value, items)
    if len(values) > limits.PARAMETER_ENTRIES:
        raise ValueError(f"{where}: more than {limits.PARAMETER_ENTRIES} entries")
    return [wire.named(f"{where}[{index}]", wire.bytes_value, item) for index, item in enumerate(values)]


def parse_descriptor(value: dict[str, object]) -> Descriptor:
    """Read an OCI descriptor; for members that decoding does not need, only the type is checked.

    Raises:
        ValueError: a member has a wrong type, or an annotation is over its limit.
    """
    media_type = wire.named("Descriptor.mediaType", wire.text_value, wire.member(value, "mediaType"))
    digest = wire.named("Descriptor.digest", wire.text_value, wire.member(value, "digest"))
    size = wire.member(value, "size")
    if size is not None and type(size) is not int:
        raise ValueError("Descriptor.size: not an integer")
    annotations = wire.named("Descriptor.annotations", wire.object_value, wire.member(value, "annotations"))
    return Descriptor(media_type, {name: _annotation(name, text) for name, text in annotations.items()}, digest)


def _annotation(name: str, value: object) -> str:
    where = f"Descriptor.annotations[{quoted(name)}]"
    text = wire.named(where, wire.text_value, value)
    if len(text) > limits.ANNOTATION_BYTES:
        raise ValueError(f"{where}: longer than {limits.ANNOTATION_BYTES} bytes")
    return text
