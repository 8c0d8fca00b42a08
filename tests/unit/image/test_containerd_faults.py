"""A containerd that fails, or answers with something else than containerd does."""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from decoder import limits
from decoder.errors import ImageError
from decoder.formats import containerd as messages
from decoder.image import transport
from decoder.image.containerd.client import ContainerdClient
from decoder.image.transport import Options

if TYPE_CHECKING:
    from collections.abc import Callable

    from decoder.image.transport import Descriptor, ImageSource, ImageTarget

DIGEST = f"sha256:{'0' * 64}"
DESCRIPTOR: Descriptor = {"mediaType": "text/plain", "digest": DIGEST, "size": 3}


class Containerd(grpc.GenericRpcHandler):
    """Answers every call with an empty message, except where a test has set something else.

    Args:
        socket: where it listens.

    Attributes:
        answers: by the name of a method: the status with which it fails, or its replies.
        is_silent: whether calls do not end after their replies.
        is_over: set at the end of the test.
    """

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.answers: dict[str, grpc.StatusCode | list[bytes]] = {}
        self.is_silent = False
        self.is_over = threading.Event()

    def service(self, handler_call_details: Any) -> Any:
        """Choose what answers a call."""
        name = handler_call_details.method.rpartition("/")[2]
        if name == "Write":
            return grpc.stream_stream_rpc_method_handler(lambda _requests, context: self._replies(name, context))
        if name == "Read":
            return grpc.unary_stream_rpc_method_handler(lambda _request, context: self._replies(name, context))
        return grpc.unary_unary_rpc_method_handler(lambda _request, context: next(self._replies(name, context)))

    def _replies(self, name: str, context: grpc.ServicerContext) -> Iterator[bytes]:
        answer = self.answers.get(name, [b""])
        if isinstance(answer, grpc.StatusCode):
            context.abort(answer, f"no {name}")
        yield from answer
        if self.is_silent:
            self.is_over.wait(60)


@pytest.fixture
def containerd(tmp_path: Path) -> Iterator[Containerd]:
    with ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads)
        service = Containerd(tmp_path / "containerd.sock")
        server.add_generic_rpc_handlers((service,))
        server.add_insecure_port(f"unix:{service.socket}")
        server.start()
        yield service
        service.is_over.set()
        server.stop(None).wait()


def upload(_source: ImageSource, target: ImageTarget) -> None:
    """Write the three bytes of a blob."""
    with target.create(3) as writer:
        writer.write(memoryview(b"abc"))
        writer.commit(DIGEST, 3)


@pytest.mark.parametrize(
    ("method", "answer", "use", "reason"),
    [
        ("Get", grpc.StatusCode.INTERNAL, lambda source, _: source.referrers(DIGEST), "default: no Get (INTERNAL)"),
        ("Create", grpc.StatusCode.PERMISSION_DENIED, lambda _, target: target.publish(DESCRIPTOR), "no Create"),
        ("Info", grpc.StatusCode.INTERNAL, lambda _, target: target.has(DESCRIPTOR), "no Info (INTERNAL)"),
        ("Info", grpc.StatusCode.DEADLINE_EXCEEDED, lambda _, target: target.has(DESCRIPTOR), "within 60 seconds"),
        ("Info", [b"\x0a"], lambda _, target: target.has(DESCRIPTOR), "containerd sent a malformed reply: "),
        ("Write", grpc.StatusCode.RESOURCE_EXHAUSTED, upload, "no Write (RESOURCE_EXHAUSTED)"),
        ("Write", [b""], upload, "containerd ended the upload of a blob early"),
        ("Write", [b"", b"\x08"], upload, "containerd sent a malformed reply: "),
    ],
)
def test_failures(
    method: str,
    answer: grpc.StatusCode | list[bytes],
    use: Callable[[ImageSource, ImageTarget], object],
    reason: str,
    containerd: Containerd,
) -> None:
    options = Options(address=str(containerd.socket))
    with (
        transport.open_source("containerd:image", options) as source,
        transport.open_target("containerd:image", options) as target,
    ):
        containerd.answers[method] = answer
        with pytest.raises(ImageError, match=re.escape(reason)):
            use(source, target)


def test_replies_that_come_faster_than_they_are_taken(containerd: Containerd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CONTAINERD_POLL_SECONDS", 0.001)
    replies = [messages.build({1: number}) for number in range(1, 3 * limits.CONTAINERD_WRITES_AHEAD)]
    containerd.answers["Read"] = replies
    with ContainerdClient(str(containerd.socket), "default") as client:
        stream = client.receive("content.v1.Content/Read", {})
        taken = []
        while (reply := stream.take()) is not None:
            time.sleep(0.005)
            taken.append(messages.build({1: messages.integer(reply, 1)}))
        assert (taken, stream.take()) == (replies, None)


def test_a_stream_without_an_end(containerd: Containerd, monkeypatch: pytest.MonkeyPatch) -> None:
    containerd.is_silent = True
    with ContainerdClient(str(containerd.socket), "default") as client:
        stream = client.receive("content.v1.Content/Read", {})
        assert stream.take() == {}
        monkeypatch.setattr(limits, "CONTAINERD_SECONDS", 0.05)
        with pytest.raises(ImageError, match="containerd stopped sending or receiving a blob"):
            stream.take()
        stream.close()


def test_a_path_that_is_too_long_for_a_socket(tmp_path: Path) -> None:
    long = tmp_path / ("d" * limits.UNIX_PATH_BYTES)
    long.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        os.rename(tmp_path / "socket", long / "socket")
        with pytest.raises(ImageError, match=f"is too long for a socket: {limits.UNIX_PATH_BYTES} bytes at most"):
            ContainerdClient(str(long / "socket"), "default")


def test_without_grpcio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(ImageError, match="grpc"):
        ContainerdClient(str(tmp_path / "socket"), "default")
