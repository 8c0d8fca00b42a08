"""Messages on the agent's sockets: a 32-bit big-endian length, then a msgpack array that starts with VERSION.

To a client: `[VERSION, READY | STARTED | ENDED, exit status]`. From a client: `[VERSION, arguments, environment,
open descriptors]` with its descriptors; `[VERSION, reason]` if it refuses the worker; `[VERSION]` to ask for the
agent's status. packaging/client/client.c is the other end, and defines the order.
"""

from __future__ import annotations

import os
import socket
from time import monotonic
from typing import NamedTuple, cast

import msgpack  # type: ignore[import-untyped]
from cryptography.hazmat.primitives.hashes import SHA256, Hash

from decoder import limits

VERSION = 2
READY, STARTED, ENDED = range(3)
STREAMS = 4  # descriptors 0 to 3: ciphertext, plaintext, messages, payload
_LENGTH_BYTES = 4
_PASSED = STREAMS + 1  # and the current directory


class MessageError(Exception):
    """The other end violated the protocol, or did not answer in time."""


class RefusedError(MessageError):
    """The client refuses the worker; the text is the line of the client's description that differs."""


class Request(NamedTuple):
    """A layer that a client hands over.

    Attributes:
        arguments: the client's command line, without the name of the program.
        environment: the client's whole environment.
        streams: our copies of the client's descriptors 0 to 3; those that it had closed are absent.
        directory: a descriptor of the client's current directory.
    """

    arguments: list[str]
    environment: dict[str, str]
    streams: dict[int, int]
    directory: int


def identity(value: object) -> bytes:
    """Return 32 bytes that identify a value: the SHA-256 of its msgpack form.

    This does not use hashlib, which would load a second copy of OpenSSL: 3 MiB of memory in every agent.
    """
    digest = Hash(SHA256())
    digest.update(cast("bytes", msgpack.packb(value)))
    return digest.finalize()


def send(connection: socket.socket, *items: object) -> None:
    """Send one message.

    Raises:
        OSError: the message cannot be sent within the socket's time limit.
    """
    connection.sendall(_frame(items))


def receive(connection: socket.socket, most: int, seconds: float) -> list[object]:
    """Receive one message; it may not bring descriptors.

    Args:
        connection: a socket.
        most: the longest message that is accepted, in bytes.
        seconds: how long it may take.

    Returns:
        The version of the protocol, and the items after it.

    Raises:
        MessageError: the message does not arrive in time, is too long, malformed, or of another version.
    """
    data, descriptors = _receive(connection, most, seconds, 0)
    _close(descriptors)
    return _unpack(data)


def receive_request(connection: socket.socket) -> Request | None:
    """Receive a client's request, of at most AGENT_REQUEST_BYTES, within AGENT_REQUEST_SECONDS.

    Returns:
        The request, or None if the client asks for the agent's status.

    Raises:
        RefusedError: the client refuses this worker.
        MessageError: it is not a request of this version, or did not arrive in time; its descriptors are closed.
    """
    data, descriptors = _receive(connection, limits.AGENT_REQUEST_BYTES, limits.AGENT_REQUEST_SECONDS, _PASSED)
    try:
        return _parse_request(_unpack(data), descriptors)
    except MessageError:
        _close(descriptors)
        raise


def send_request(connection: socket.socket, request: Request) -> None:
    """Hand a layer over, as packaging/client/client.c does, and close its descriptors in this process.

    Raises:
        OSError: the request cannot be sent; the descriptors are closed all the same.
    """
    arguments = [os.fsencode(argument) for argument in request.arguments]
    environment = [os.fsencode(f"{name}={value}") for name, value in request.environment.items()]
    mask = sum(1 << place for place in request.streams)
    descriptors = [*request.streams.values(), request.directory]
    try:
        socket.send_fds(connection, [_frame((arguments, environment, mask))], descriptors)
    finally:
        _close(descriptors)


def ask_for_status(connection: socket.socket) -> None:
    """Ask a worker for the agent's status; the answer is a message with one mapping.

    Raises:
        OSError: the question cannot be sent.
    """
    connection.sendall(_frame(()))


def _parse_request(items: list[object], descriptors: list[int]) -> Request | None:
    if len(items) == 1 and not descriptors:
        return None
    if len(items) == 2 and type(items[1]) is bytes:
        raise RefusedError(items[1].decode(errors="replace"))
    if len(items) != 4 or type(items[3]) is not int or not 0 <= items[3] < 1 << STREAMS:
        raise MessageError("not a request")
    places = [place for place in range(STREAMS) if items[3] & 1 << place]
    if len(descriptors) != len(places) + 1:
        raise MessageError("the request says that it brings another number of descriptors")
    environment = dict(entry.split("=", 1) for entry in _texts(items[2]) if entry.find("=") > 0)
    streams = dict(zip(places, descriptors, strict=False))
    return Request(_texts(items[1]), environment, streams, descriptors[-1])


def _texts(value: object) -> list[str]:
    if not isinstance(value, list) or not all(type(item) is bytes for item in value):
        raise MessageError("expected an array of byte strings")
    return [os.fsdecode(item) for item in value]


def _frame(items: tuple[object, ...]) -> bytes:
    body = cast("bytes", msgpack.packb([VERSION, *items]))
    return len(body).to_bytes(_LENGTH_BYTES) + body


def _unpack(data: bytes) -> list[object]:
    try:
        value = msgpack.unpackb(data)
    except (ValueError, msgpack.UnpackException) as error:
        raise MessageError(f"not msgpack ({type(error).__name__})") from error
    if not isinstance(value, list) or value[:1] != [VERSION]:
        raise MessageError("not a message of this version")
    return value


def _receive(connection: socket.socket, most: int, seconds: float, passed: int) -> tuple[bytes, list[int]]:
    """Return one message without its length, and the descriptors that came with it: at most `passed`."""
    deadline = monotonic() + seconds
    descriptors: list[int] = []
    try:
        length = int.from_bytes(_exactly(connection, _LENGTH_BYTES, deadline, passed, descriptors))
        _check_length(length, most)
        return _exactly(connection, length, deadline, passed, descriptors), descriptors
    except OSError as error:
        _close(descriptors)
        raise MessageError(str(error)) from error
    except MessageError:
        _close(descriptors)
        raise


def _exactly(connection: socket.socket, length: int, deadline: float, passed: int, descriptors: list[int]) -> bytes:
    data = b""
    while len(data) < length:
        connection.settimeout(max(0.001, deadline - monotonic()))
        chunk, more, flags, _ = socket.recv_fds(connection, length - len(data), passed, socket.MSG_CMSG_CLOEXEC)
        descriptors += more
        data += chunk
        if not chunk or flags & socket.MSG_CTRUNC or len(descriptors) > passed:
            raise MessageError("the message ends too early, or brings too many descriptors")
        if monotonic() > deadline:
            raise MessageError("the message did not arrive in time")
    return data


def _check_length(length: int, most: int) -> None:
    if not 0 < length <= most:
        raise MessageError(f"the message is empty or longer than {most} bytes")


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
