"""Calls to containerd's services over its socket, with time limits on whole calls and on every step of a stream."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from decoder import limits
from decoder.errors import ImageError, quoted
from decoder.extras import missing
from decoder.formats import containerd as messages
from decoder.provider.client.quietgrpc import import_grpc

if TYPE_CHECKING:
    from decoder.formats.containerd import Fields, Value

_SERVICES = "/containerd.services."


class ContainerdError(ImageError):
    """A call failed; `code` is the name of its gRPC status, for example NOT_FOUND."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class Stream:
    """A call with a stream of replies, which a thread receives ahead of the caller.

    Args:
        replies: the call of grpcio, an iterator of replies.
        failure: turns a grpc.RpcError of the call into an ImageError.
    """

    def __init__(self, replies: Any, failure: Callable[[Any], ImageError]) -> None:
        self._replies = replies
        self._failure = failure
        self._received: Queue[bytes | ImageError | None] = Queue(limits.CONTAINERD_WRITES_AHEAD)
        self._has_ended = False
        self._is_closed = Event()
        Thread(target=self._receive, daemon=True).start()

    def take(self) -> Fields | None:
        """Return the next reply, or None at the end and after it.

        Raises:
            ContainerdError: the call failed, or no reply came for CONTAINERD_SECONDS.
            ImageError: the reply is malformed.
        """
        if self._has_ended:
            return None
        try:
            reply = self._received.get(timeout=limits.CONTAINERD_SECONDS)
        except Empty as error:
            raise ContainerdError("DEADLINE_EXCEEDED", "containerd stopped sending or receiving a blob") from error
        if isinstance(reply, ImageError):
            raise reply
        self._has_ended = reply is None
        return None if reply is None else _parsed(reply)

    def close(self) -> None:
        """Cancel the call if it has not ended."""
        self._is_closed.set()
        self._replies.cancel()

    def _receive(self) -> None:
        import grpc

        try:
            for reply in self._replies:
                self._offer(reply)
            self._offer(None)
        except grpc.RpcError as error:
            self._offer(self._failure(error))

    def _offer(self, item: bytes | ImageError | None) -> None:
        while not self._is_closed.is_set():
            try:
                self._received.put(item, timeout=limits.CONTAINERD_POLL_SECONDS)
            except Full:
                continue
            return


class ContainerdClient:
    """A connection to containerd for one namespace, which several threads may use.

    Args:
        address: the path of containerd's socket, with or without `unix://`.
        namespace: the containerd namespace of all calls.

    Attributes:
        lease: the ID of the lease that protects written content from garbage collection; "" if there is none.

    Raises:
        ImageError: grpcio is not installed, the socket does not exist, or the name of the namespace is invalid.
    """

    def __init__(self, address: str, namespace: str) -> None:
        self._grpc = _load()
        self._place = f"containerd at {quoted(address)}"
        self._namespace = namespace
        self.lease = ""
        if not namespace or not namespace.isascii() or not namespace.isprintable():
            raise ImageError(f"{quoted(namespace)} is not a valid containerd namespace")
        path = os.path.abspath(address.removeprefix("unix://"))
        _check_socket(path)
        options = [
            ("grpc.enable_http_proxy", 0),
            ("grpc.max_receive_message_length", limits.CONTAINERD_MESSAGE_BYTES),
            # Go's server rejects the authority that grpcio derives from a path.
            ("grpc.default_authority", "localhost"),
        ]
        self._channel = self._grpc.insecure_channel(f"unix:{path}", options)

    def __enter__(self) -> ContainerdClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def call(self, method: str, request: dict[int, Value]) -> Fields:
        """Call a method that has one reply.

        Args:
            method: such as `images.v1.Images/Get`.
            request: the fields of the request by their protobuf numbers.

        Raises:
            ContainerdError: the call failed, or took longer than CONTAINERD_SECONDS.
        """
        stub = self._channel.unary_unary(_SERVICES + method)
        with self._failing():
            reply = stub(messages.build(request), timeout=limits.CONTAINERD_SECONDS, metadata=self._metadata())
        return _parsed(reply)

    def receive(self, method: str, request: dict[int, Value]) -> Stream:
        """Call a method that has a stream of replies; the call's errors are raised by `Stream.take`."""
        stub = self._channel.unary_stream(_SERVICES + method)
        return Stream(stub(messages.build(request), metadata=self._metadata()), self._failure)

    def converse(self, method: str, requests: Iterator[bytes]) -> Stream:
        """Call a method that has streams of requests (already serialized) and of replies; see `receive`."""
        stub = self._channel.stream_stream(_SERVICES + method)
        return Stream(stub(requests, metadata=self._metadata()), self._failure)

    def _metadata(self) -> list[tuple[str, str]]:
        metadata = [("containerd-namespace", self._namespace)]
        return [*metadata, ("containerd-lease", self.lease)] if self.lease else metadata

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except self._grpc.RpcError as error:
            raise self._failure(error) from error

    def _failure(self, error: Any) -> ImageError:
        code = error.code().name
        said = quoted(error.details() or code)[1:-1]
        if code == "UNAVAILABLE":
            return ContainerdError(code, f"{self._place} cannot be reached: {said}")
        if code == "DEADLINE_EXCEEDED":
            return ContainerdError(code, f"{self._place} did not answer within {limits.CONTAINERD_SECONDS:g} seconds")
        return ContainerdError(code, f"{self._place}, namespace {self._namespace}: {said} ({code})")


def _load() -> Any:
    try:
        return import_grpc()
    except ImportError as error:
        raise ImageError(missing("grpc", error)) from error


def _check_socket(path: str) -> None:
    """Check the address first, because grpcio would try to connect for some time before it reports an error."""
    try:
        is_socket = stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError as error:
        raise ImageError(f"there is no containerd at {quoted(path)}: {error.strerror}") from error
    if not is_socket:
        raise ImageError(f"there is no containerd at {quoted(path)}: it is not a socket")
    if len(os.fsencode(path)) > limits.UNIX_PATH_BYTES:
        raise ImageError(f"{quoted(path)} is too long for a socket: {limits.UNIX_PATH_BYTES} bytes at most")


def _parsed(reply: bytes) -> Fields:
    try:
        return messages.parse(reply)
    except ValueError as error:
        raise ImageError(f"containerd sent a malformed reply: {error}") from error
