"""The messages of ocicrypt's keyprovider protocol, for clients and servers: JSON on a pipe or in a gRPC message.

A client sends only the parameters of the provider that it asks. A server answers with arrays of integers, the only form
that both ocicrypt and ocicrypt-rs read; a client reads base64, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Literal

from decoder import limits
from decoder.formats import protobuf, wire
from decoder.record import Record

Operation = Literal["keywrap", "keyunwrap"]

# The provider's operation, by the protocol's operation and whether it is about a key-encryption key.
OPERATIONS: dict[tuple[Operation, bool], Literal["wrap", "unwrap", "wrap-kek", "unwrap-kek"]] = {
    ("keywrap", False): "wrap",
    ("keywrap", True): "wrap-kek",
    ("keyunwrap", False): "unwrap",
    ("keyunwrap", True): "unwrap-kek",
}
_RESULTS: dict[Operation, tuple[str, str]] = {
    "keywrap": ("keywrapresults", "annotation"),
    "keyunwrap": ("keyunwrapresults", "optsdata"),
}


class Request(Record):
    """A request of a client.

    Attributes:
        operation: `keywrap` or `keyunwrap`.
        data: the private options to wrap, or the annotation to unwrap.
        parameters: the parameters by provider name, as the client sent them.
    """

    operation: Operation
    data: bytes
    parameters: dict[str, list[bytes]]


def build_request(operation: Operation, data: bytes, name: str, parameters: Sequence[bytes]) -> bytes:
    """Build a request for one provider, without parameters of other providers and without private keys."""
    encoded = {name: [wire.encode_base64(item) for item in parameters]} if parameters else {}
    encode = wire.encode_base64(data)
    wrap: dict[str, object] = {"ec": None, "optsdata": None}
    unwrap: dict[str, object] = {"dc": None, "annotation": None}
    if operation == "keywrap":
        wrap = {"ec": {"Parameters": encoded, "DecryptConfig": {"Parameters": {}}}, "optsdata": encode}
    else:
        unwrap = {"dc": {"Parameters": encoded}, "annotation": encode}
    return json.dumps({"op": operation, "keywrapparams": wrap, "keyunwrapparams": unwrap}).encode()


def parse_request(data: bytes) -> Request:
    """Parse a request of any client: ocicrypt sends base64; ocicrypt-rs sends the private options as plain text.

    Raises:
        ValueError: it is malformed, or over PROVIDER_MESSAGE_BYTES.
    """
    if len(data) > limits.PROVIDER_MESSAGE_BYTES:
        raise ValueError(f"the request is longer than {limits.PROVIDER_MESSAGE_BYTES} bytes")
    value = wire.parse_object(data)
    operation = wire.text_value(wire.member(value, "op"))
    if operation == "keywrap":
        params = wire.object_value(wire.member(value, "keywrapparams"))
        config = wire.object_value(wire.member(params, "ec"))
        return Request("keywrap", _private_options(params), _parameters(config))
    if operation == "keyunwrap":
        params = wire.object_value(wire.member(value, "keyunwrapparams"))
        config = wire.object_value(wire.member(params, "dc"))
        return Request("keyunwrap", _bytes(params, "annotation"), _parameters(config))
    raise ValueError("the operation is neither keywrap nor keyunwrap")


def build_reply(operation: Operation, data: bytes) -> bytes:
    """Build the reply to a request: only the result of its operation, as integers."""
    results, member = _RESULTS[operation]
    return json.dumps({results: {member: list(data)}}, separators=(",", ":")).encode()


def parse_reply(operation: Operation, data: bytes) -> bytes:
    """Parse a provider's reply, which has base64 or an array of integers.

    Raises:
        ValueError: it is malformed, has no result, or is over PROVIDER_MESSAGE_BYTES.
    """
    if len(data) > limits.PROVIDER_MESSAGE_BYTES:
        raise ValueError(f"the reply is longer than {limits.PROVIDER_MESSAGE_BYTES} bytes")
    results, member = _RESULTS[operation]
    return _bytes(wire.object_value(wire.member(wire.parse_object(data), results)), member)


def build_message(data: bytes) -> bytes:
    """Build the gRPC message around a request or a reply: `bytes` in field 1, in both messages of the service."""
    return protobuf.build_bytes(1, data)


def parse_message(message: bytes) -> bytes:
    """Parse the result of `build_message`.

    Raises:
        ValueError: it is not such a message.
    """
    return protobuf.parse_bytes(message, 1)


def _private_options(params: dict[str, object]) -> bytes:
    text = wire.member(params, "optsdata")
    if isinstance(text, str) and text.startswith("{"):
        return text.encode(errors="replace")
    return _bytes(params, "optsdata")


def _bytes(value: dict[str, object], name: str) -> bytes:
    data = wire.bytes_value(wire.member(value, name))
    if not data:
        raise ValueError(f"it has no {name}")
    return data


def _parameters(config: Mapping[str, object]) -> dict[str, list[bytes]]:
    values = wire.object_value(wire.member(dict(config), "Parameters"))
    return {name: [wire.bytes_value(item) for item in wire.list_value(items)] for name, items in values.items()}
