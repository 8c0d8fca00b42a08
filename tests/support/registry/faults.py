"""A proxy in front of a real registry, which injects the failures that a test asks for."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self

_SECONDS = 120
_HOP = ("connection", "transfer-encoding", "content-length")


class Asked(NamedTuple):
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]


class Fault(NamedTuple):
    """What happens instead of, or to, the registry's answer.

    Attributes:
        status: the answer, and the registry is not asked; 0 to ask it.
        headers: of that answer.
        body: of that answer.
        cut: how many bytes of the answer's body pass before the connection ends; -1 for all. With 0 not even its head.
        cut_upload: the same of the request's body.
        damage: whether a byte of the answer's body is changed.
        drip: seconds before each byte of the answer, from its first line on.
    """

    status: int = 0
    headers: dict[str, str] | None = None
    body: bytes = b""
    cut: int = -1
    cut_upload: int = -1
    damage: bool = False
    drip: float = 0.0


Rule = Callable[[Asked], Fault | None]


class FaultyRegistry:
    """A proxy that runs while the context is open.

    Args:
        host: of the registry, with its port.
        rule: chooses the fault for a request.

    Attributes:
        asked: every request so far.
        uploads: as much of each blob as was taken.
        host: to use in place of the registry's.
    """

    def __init__(self, host: str, rule: Rule) -> None:
        self.asked: list[Asked] = []
        self.uploads: list[bytes] = []
        self.rule = rule
        self._ended = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = _SECONDS

            def do_GET(self) -> None:  # the base class names it so
                with suppress(OSError):
                    owner._handle(self, host)

            do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 - likewise

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - likewise
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.host = f"localhost:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()

    def count(self, method: str, part: str) -> int:
        """Count requests whose path has this part."""
        return sum(asked.method == method and part in asked.path for asked in self.asked)

    def _handle(self, handler: BaseHTTPRequestHandler, host: str) -> None:
        headers = {name.lower(): value for name, value in handler.headers.items()}
        asked = Asked(handler.command, handler.path, headers)
        self.asked.append(asked)
        fault = self.rule(asked) or Fault()
        if fault.drip:
            self._drip(handler, fault.drip)
        elif fault.cut_upload >= 0:
            self.uploads.append(handler.rfile.read(fault.cut_upload))
            _hang_up(handler)
        elif fault.status:
            self._body(handler, asked)
            _answer(handler, fault.status, fault.headers or {}, fault.body, -1)
        else:
            self._forward(handler, asked, host, fault)

    def _forward(self, handler: BaseHTTPRequestHandler, asked: Asked, host: str, fault: Fault) -> None:
        body = self._body(handler, asked)
        upstream = http.client.HTTPConnection(host, timeout=_SECONDS)
        upstream.request(asked.method, asked.path, body, asked.headers)
        response = upstream.getresponse()
        content = response.read()
        upstream.close()
        if fault.damage:
            content = bytes([content[0] ^ 1]) + content[1:]
        headers = {name: value for name, value in response.getheaders() if name.lower() not in _HOP}
        if asked.method == "HEAD":
            headers["Content-Length"] = response.headers.get("Content-Length", "0")
        _answer(handler, response.status, headers, content, fault.cut)

    def _body(self, handler: BaseHTTPRequestHandler, asked: Asked) -> bytes:
        body = handler.rfile.read(int(asked.headers.get("content-length", 0)))
        if asked.method == "PATCH":
            self.uploads.append(body)
        return body

    def _drip(self, handler: BaseHTTPRequestHandler, seconds: float) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789":
            if self._ended.wait(seconds):
                return
            handler.wfile.write(bytes([byte]))


def _answer(handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes, cut: int) -> None:
    if cut == 0:
        _hang_up(handler)
        return
    handler.send_response_only(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    if handler.command != "HEAD":
        handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body if cut < 0 else body[:cut])
    if cut >= 0:
        _hang_up(handler)


def _hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True
