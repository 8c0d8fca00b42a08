"""A keyprovider that is a ttrpc server: gRPC's calls over a Unix socket, without HTTP/2 (containerd's PROTOCOL.md).

A frame is a header of 10 bytes, big-endian (length of the message, stream, type, flags), and a message. A request has
the fields service (1), method (2), payload (3) and time limit in nanoseconds (4). A reply has a google.rpc.Status (1),
whose code is 0 for success, and the payload (2).
"""

from __future__ import annotations

import socket
import struct
from time import monotonic
from typing import TYPE_CHECKING

from decoder import limits
from decoder.errors import quoted
from decoder.formats import protobuf
from decoder.provider.client import protocol
from decoder.provider.errors import ProviderError, excerpt

if TYPE_CHECKING:
    from decoder.provider.client.config import TtrpcProvider

_SERVICE = "keyprovider.KeyProviderService"
_METHODS: dict[protocol.Operation, str] = {"keywrap": "WrapKey", "keyunwrap": "UnWrapKey"}
_HEADER = struct.Struct(">IIBB")
_REQUEST, _RESPONSE = 1, 2
_STREAM = 1  # clients use odd numbers
# The codes of google.rpc.Status in order; 0 is success.
_CODES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)


def ask(provider: TtrpcProvider, operation: protocol.Operation, request: bytes, seconds: float) -> bytes:
    """Ask a server once.

    Args:
        provider: the server's address.
        operation: the operation, which determines the method.
        request: at most PROVIDER_MESSAGE_BYTES.
        seconds: how long all of it may take.

    Raises:
        ProviderError: `call` failed, or the reply is not a message of the keyprovider service.
    """
    reply = call(provider.address, _SERVICE, _METHODS[operation], protocol.build_message(request), seconds)
    try:
        return protocol.parse_message(reply)
    except ValueError as error:
        raise ProviderError(f"its reply is not a message of the keyprovider service: {error}") from error


def call(address: str, service: str, method: str, payload: bytes, seconds: float) -> bytes:
    """Call a method over a new connection.

    Args:
        address: `unix:///PATH`, or the path.
        service: the service's name with its package.
        method: the method's name.
        payload: the serialized request message.
        seconds: how long the whole call may take.

    Returns:
        The serialized response message, at most TTRPC_MESSAGE_BYTES.

    Raises:
        ProviderError: the server cannot be reached, does not answer in time, or answers with an error, whose text is
            quoted, or with something other than a reply; or a message is longer than TTRPC_MESSAGE_BYTES.
    """
    request = (
        protobuf.build_bytes(1, service.encode())
        + protobuf.build_bytes(2, method.encode())
        + protobuf.build_bytes(3, payload)
        + protobuf.build_varint(4, int(seconds * 1e9))
    )
    _check_length(len(request))
    connection = _Connection(socket_path(address), seconds)
    try:
        connection.send(_HEADER.pack(len(request), _STREAM, _REQUEST, 0) + request)
        return _payload(_reply(connection))
    finally:
        connection.close()


def socket_path(address: str) -> str:
    """Return the path in an address.

    Raises:
        ProviderError: the address has no absolute path.
    """
    path = address.removeprefix("unix:")
    path = path.removeprefix("//") if path != address else path
    if not path.startswith("/") or "\0" in path:
        raise ProviderError(f"the address {quoted(address)} is neither unix:///PATH nor a path")
    return path


class _Connection:
    """A connection that closes when its time is over, even in the middle of a message.

    Raises:
        ProviderError: the server cannot be reached, the connection breaks off, or the time is over.
    """

    def __init__(self, path: str, seconds: float) -> None:
        self._seconds = seconds
        self._deadline = monotonic() + seconds
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(seconds)
        try:
            self._socket.connect(path)
        except OSError as error:
            self.close()
            raise ProviderError(f"it cannot be reached: {error.strerror or error}") from error

    def send(self, data: bytes) -> None:
        try:
            self._limit()
            self._socket.sendall(data)
        except OSError as error:
            raise self._broken(error) from error

    def receive(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            try:
                self._limit()
                chunk = self._socket.recv(min(length - len(data), limits.SMALL_PIPE_BUFFER_BYTES))
            except OSError as error:
                raise self._broken(error) from error
            if not chunk:
                raise ProviderError("it ended the connection before its reply was complete")
            data += chunk
        return bytes(data)

    def close(self) -> None:
        self._socket.close()

    def _limit(self) -> None:
        """Set the time limit of the next step to the time that is left."""
        left = self._deadline - monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)

    def _broken(self, error: OSError) -> ProviderError:
        if isinstance(error, TimeoutError):
            return ProviderError(f"no answer within {self._seconds:g} seconds")
        return ProviderError(f"the connection broke off: {error.strerror or type(error).__name__}")


def _reply(connection: _Connection) -> bytes:
    """Wait for the reply to our request; frames of other streams are ignored."""
    while True:
        length, stream, kind, _flags = _HEADER.unpack(connection.receive(_HEADER.size))
        _check_length(length)
        message = connection.receive(length)
        if stream != _STREAM:
            continue
        if kind != _RESPONSE:
            raise ProviderError(f"it answered with a frame of type {kind}, which is not a reply")
        return message


def _check_length(length: int) -> None:
    if length > limits.TTRPC_MESSAGE_BYTES:
        raise ProviderError(f"a message of {length} bytes is too large; the limit is {limits.TTRPC_MESSAGE_BYTES}")


def _payload(reply: bytes) -> bytes:
    try:
        status = protobuf.parse_bytes(reply, 1)
        code, text = protobuf.parse_varint(status, 1), protobuf.parse_bytes(status, 2)
        payload = protobuf.parse_bytes(reply, 2)
    except ValueError as error:
        raise ProviderError(f"its reply is not one of ttrpc: {error}") from error
    if code:
        name = _CODES[code] if code < len(_CODES) else f"with code {code}"
        said = text[: limits.PROVIDER_ERROR_BYTES].decode(errors="replace")
        raise ProviderError(f"it answered {name}: {excerpt(said)}")
    return payload
