"""The annotation in the form of published keyproviders: `key_url`, `wrapped_key`, `wrap_type` (docs/formats.md §5)."""

from __future__ import annotations

import json
from typing import NamedTuple

from decoder import limits
from decoder.errors import quoted
from decoder.formats import wire
from decoder.provider.errors import ProviderError


class Wrapped(NamedTuple):
    """Wrapped private options, and the key that unwraps them.

    Attributes:
        key_url: the key, as a URL of its key service.
        data: the key service's ciphertext, at most PROVIDER_WRAPPED_BYTES.
        members: the whole JSON object, which may have further members of one provider.
    """

    key_url: str
    data: bytes
    members: dict[str, object]


def build_annotation(key_url: str, data: bytes | str, wrap_type: str, **more: object) -> bytes:
    """Build the annotation.

    Args:
        key_url: the key.
        data: the key service's ciphertext: bytes, which are encoded to base64, or text, which is kept.
        wrap_type: the kind of annotation.
        more: further members of one provider.
    """
    text = data if isinstance(data, str) else wire.encode_base64(data)
    members = {"key_url": key_url, "wrapped_key": text, "wrap_type": wrap_type, **more}
    return json.dumps(members, separators=(",", ":")).encode()


def parse_annotation(annotation: bytes, wrap_type: str) -> Wrapped:
    """Parse an annotation whose wrapped_key is base64.

    Raises:
        ProviderError: it is malformed, of another type, or over PROVIDER_MESSAGE_BYTES.
    """
    members = parse_members(annotation, wrap_type)
    try:
        data = wire.bytes_value(wire.member(members, "wrapped_key"))
    except ValueError as error:
        raise ProviderError(f"the annotation is malformed: {error}") from error
    key_url = wire.text_value(wire.member(members, "key_url"))
    if not key_url or not data:
        raise ProviderError(f"the annotation has no {'wrapped_key' if key_url else 'key_url'}")
    if len(data) > limits.PROVIDER_WRAPPED_BYTES:
        raise ProviderError(f"the annotation's wrapped key is longer than {limits.PROVIDER_WRAPPED_BYTES} bytes")
    return Wrapped(key_url, data, members)


def parse_members(annotation: bytes, wrap_type: str) -> dict[str, object]:
    """Return the members of an annotation; `key_url` and `wrap_type` have been checked to be text.

    Raises:
        ProviderError: it is malformed, of another type, or over PROVIDER_MESSAGE_BYTES.
    """
    if len(annotation) > limits.PROVIDER_MESSAGE_BYTES:
        raise ProviderError(f"the annotation is longer than {limits.PROVIDER_MESSAGE_BYTES} bytes")
    try:
        members = wire.parse_object(annotation)
        wire.text_value(wire.member(members, "key_url"))
        found = wire.text_value(wire.member(members, "wrap_type"))
    except ValueError as error:
        raise ProviderError(f"the annotation is malformed: {error}") from error
    if found != wrap_type:
        raise ProviderError(f"the annotation's wrap_type is {quoted(found)}, not {wrap_type}")
    return members
