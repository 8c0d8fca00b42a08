"""A ttrpc server on a Unix socket, written from the protocol alone; strict about what it reads."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, unknown_fields

HEADER = struct.Struct(">IIBB")
REQUEST, RESPONSE = 1, 2
INTERNAL, UNIMPLEMENTED = 13, 12
MESSAGE_BYTES = 4 * 1024 * 1024
_SECONDS = 60.0

Methods = dict[str, Callable[[bytes], bytes]]
Mangle = Callable[[bytes], bytes | None]


class RefusedError(Exception):
    """A method refuses: the client gets INTERNAL and the text."""


def _messages() -> dict[str, Any]:
    """Have protobuf's own library make the messages of the framing."""
    kinds = descriptor_pb2.FieldDescriptorProto
    forms: dict[str, list[tuple[str, int, Any]]] = {
        "Request": [
            ("service", 1, kinds.TYPE_STRING),
            ("method", 2, kinds.TYPE_STRING),
            ("payload", 3, kinds.TYPE_BYTES),
            ("timeout_nano", 4, kinds.TYPE_INT64),
        ],
        "Status": [("code", 1, kinds.TYPE_INT32), ("message", 2, kinds.TYPE_STRING)],
        "Response": [("status", 1, kinds.TYPE_MESSAGE), ("payload", 2, kinds.TYPE_BYTES)],
    }
    file = descriptor_pb2.FileDescriptorProto(name="framing.proto", package="framing", syntax="proto3")
    for name, fields in forms.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            type_name = ".framing.Status" if kind == kinds.TYPE_MESSAGE else None
            message.field.add(name=field, number=number, type=kind, type_name=type_name, label=kinds.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"framing.{name}")) for name in forms}


MESSAGES = _messages()


def frame(message: bytes, stream: int = 1, kind: int = RESPONSE) -> bytes:
    """Put the header before a message."""
    return HEADER.pack(len(message), stream, kind, 0) + message


@contextmanager
def serving_ttrpc(path: Path, methods: Methods, mangle: Mangle = lambda reply: reply) -> Iterator[list[Any]]:
    """Serve while the context is open.

    Args:
        path: of the socket.
        methods: by `package.Service/Method`.
        mangle: makes of the frame of a reply what is sent, after which the connection ends; None has the client wait.

    Yields:
        The requests so far.
    """
    requests: list[Any] = []
    ended = threading.Event()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(64)

    def converse(connection: socket.socket) -> None:
        with connection, suppress(OSError):  # clients go away
            connection.settimeout(_SECONDS)
            request, stream = _read(connection)
            requests.append(request)
            sent = mangle(frame(_reply(request, methods).SerializeToString(), stream))
            if sent is None:
                ended.wait(_SECONDS)
            else:
                connection.sendall(sent)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=converse, args=(listener.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield requests
    finally:
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(_SECONDS)
        listener.close()
        path.unlink()


def _read(connection: socket.socket) -> tuple[Any, int]:
    with connection.makefile("rb") as file:
        length, stream, kind, flags = HEADER.unpack(file.read(HEADER.size))
        assert (stream % 2, kind, flags) == (1, REQUEST, 0)
        assert length <= MESSAGE_BYTES
        request = MESSAGES["Request"].FromString(file.read(length))
    assert not unknown_fields.UnknownFieldSet(request)
    assert request.timeout_nano > 0
    return request, stream


def _reply(request: Any, methods: Methods) -> Any:
    response = MESSAGES["Response"]()
    name = f"{request.service}/{request.method}"
    if name not in methods:
        response.status.code, response.status.message = UNIMPLEMENTED, f"{name} is not supported"
        return response
    try:
        response.payload = methods[name](request.payload)
    except RefusedError as error:
        response.status.code, response.status.message = INTERNAL, str(error)
    return response
