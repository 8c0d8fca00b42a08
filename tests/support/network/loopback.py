"""HTTP and HTTPS servers on the loopback interface that send what a test writes, and certificates for them."""

from __future__ import annotations

import json
import select
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from tests.support.network import certificates

_SECONDS = 60


class Asked(NamedTuple):
    """A request as a server received it; the host is the one in its header."""

    method: str
    host: str
    path: str
    headers: dict[str, str]
    body: bytes


class Answer(NamedTuple):
    """What a server replies; with `drip` its body comes in single bytes, that many seconds apart."""

    status: int
    body: bytes = b""
    headers: dict[str, str] | None = None
    drip: float = 0.0


def json_answer(value: object, status: int = 200, **headers: str) -> Answer:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Answer(
        status, json.dumps(value, separators=(",", ":")).encode(), {"Content-Type": "application/json", **named}
    )


class Authority:
    """A certificate authority of a test."""

    def __init__(self, directory: Path, name: str = "test authority") -> None:
        self._directory = directory
        self._own = certificates.issue(name)
        self.file = directory / f"{name.replace(' ', '-')}.pem"
        self.file.write_bytes(self._own.certificate)

    def server_context(self, *names: str) -> ssl.SSLContext:
        """Make the TLS settings of a server with these names or addresses."""
        issued = certificates.issue(names[0], self._own, list(names))
        file = self._directory / f"server-{names[0]}.pem"
        file.write_bytes(issued.certificate + issued.key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


class Loopback:
    """A server that answers each request by a function; `None` leaves the client waiting.

    Attributes:
        asked: every request so far.
    """

    def __init__(
        self, answer: Callable[[Asked], Answer | None], context: ssl.SSLContext | None = None, port: int = 0
    ) -> None:
        self.asked: list[Asked] = []
        self.answer = answer
        self._ended = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = _SECONDS

            def do_POST(self) -> None:  # the base class names it so
                owner._handle(self)

            do_GET = do_HEAD = do_PUT = do_PATCH = do_DELETE = do_POST  # noqa: N815 - likewise

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - likewise
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def finish_request(self, request: Any, client_address: Any) -> None:
                # A client may not accept the certificate, or not wait.
                with suppress(OSError), _with_tls(request, context) as connection:
                    Handler(connection, client_address, self)

        self._server = Server(("127.0.0.1", port), Handler)
        self._server.socket.listen(64)
        self.port = self._server.server_address[1]
        scheme = "https" if context else "http"
        self.url = f"{scheme}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        asked = Asked(handler.command, headers.get("host", ""), handler.path, headers, body)
        self.asked.append(asked)
        answer = self.answer(asked)
        if answer is None:
            self._ended.wait(_SECONDS)
            handler.close_connection = True
            return
        handler.send_response(answer.status)
        for name, value in (answer.headers or {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(answer.body)))
        handler.end_headers()
        if asked.method == "HEAD":
            return
        if not answer.drip:
            handler.wfile.write(answer.body)
        for at in range(len(answer.body) if answer.drip else 0):
            handler.wfile.write(answer.body[at : at + 1])
            handler.wfile.flush()
            if self._ended.wait(answer.drip):
                return


def _with_tls(connection: socket.socket, context: ssl.SSLContext | None) -> socket.socket:
    return context.wrap_socket(connection, server_side=True) if context else connection


class Proxy:
    """A CONNECT proxy that leads every host to a server of a test, as if the names were its own.

    Attributes:
        hosts: which were asked for, with their ports, in order.
    """

    def __init__(self, routes: dict[str, int]) -> None:
        self.hosts: list[str] = []
        self._routes = routes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                if not (received := client.recv(4096)):
                    return
                head += received
            host = head.split()[1].decode()
            self.hosts.append(host)
            if host not in self._routes:
                client.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
                return
            with socket.create_connection(("127.0.0.1", self._routes[host])) as server:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                relay(client, server)


def relay(one: socket.socket, other: socket.socket) -> None:
    """Pass on what either of two connections has to say, until one of them ends."""
    to = {one: other, other: one}
    while True:
        readable, _, _ = select.select([one, other], [], [], _SECONDS)
        for source in readable:
            if not (data := source.recv(65536)):
                return
            to[source].sendall(data)
        if not readable:
            return
