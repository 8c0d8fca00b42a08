"""`--metrics ADDRESS`: /metrics, /healthz and /readyz over HTTP/1.1, without TLS. Nothing there is secret."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from decoder import limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from decoder.provider.server.numbers.tally import Tally

_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}
_TEXT = "text/plain; charset=utf-8"


class Answer(NamedTuple):
    """A response: its status, body and Content-Type."""

    status: int
    body: bytes
    content_type: str = _TEXT


class Status:
    """Answers requests about all processes of a server; every process can answer them.

    Args:
        tally: the counters of all processes.
        write_metrics: returns the metrics as a body and its Content-Type, for a header Accept.

    Attributes:
        stopping: whether the server is stopping, so that it is not ready.
    """

    def __init__(self, tally: Tally, write_metrics: Callable[[str], tuple[bytes, str]]) -> None:
        self._tally = tally
        self._write_metrics = write_metrics
        self._open = 0
        self.stopping = False

    async def serve(self, listener: socket.socket) -> asyncio.Server:
        """Start answering requests at a listening socket."""
        return await asyncio.start_server(self._converse, sock=listener, limit=limits.STATUS_REQUEST_BYTES)

    def answer(self, path: str, accept: str = "") -> Answer:
        """Return the response to a request.

        Args:
            path: the path in the request.
            accept: the header Accept, or "".
        """
        if path == "/metrics":
            return Answer(200, *self._write_metrics(accept))
        if path == "/healthz":
            return self._health()
        if path == "/readyz":
            problems = self._problems()
            return Answer(503, _lines(problems)) if problems else Answer(200, b"ready\n")
        return Answer(404, b"not found; try /metrics, /healthz or /readyz\n")

    def _health(self) -> Answer:
        """Answer /healthz: the server is healthy unless a process hangs, which a restart would end."""
        if any(row.is_stuck for row in self._tally.living()):
            return Answer(503, b"a process does not answer\n")
        return Answer(200, b"healthy\n")

    def _problems(self) -> list[str]:
        """Return the reasons why the server is not ready, so that clients should use another one."""
        rows = list(self._tally.living())
        if self.stopping:
            return ["the server is stopping"]
        if not rows:
            return ["no process serves"]
        problems = []
        if not any(row.get("backend_up") for row in rows):
            problems.append("the key service cannot be reached, or no key can be read")
        for what, used, bound in (
            ("calls", self._tally.total("in_flight"), limits.PROVIDER_SERVER_CALLS),
            ("calls that wait for the key service", self._tally.total("waiting"), limits.PROVIDER_SERVER_WAITING),
            ("bytes of requests", self._tally.total("request_bytes"), limits.PROVIDER_SERVER_BYTES),
            ("connections", self._tally.total("connections"), limits.PROVIDER_SERVER_CONNECTIONS),
        ):
            most = bound * len(rows)
            if used >= limits.PROVIDER_SERVER_SATURATED * most:
                problems.append(f"saturated: {used:.0f} of {most} {what}")
        return problems

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request of a connection, and close it."""
        self._open += 1
        try:
            if self._open <= limits.STATUS_CONNECTIONS:
                async with asyncio.timeout(limits.STATUS_SECONDS):
                    await self._exchange(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a client that does not speak HTTP, or is too slow
        finally:
            self._open -= 1
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        request, _, fields = head.decode("latin-1").partition("\r\n")
        method, path, accept = _parse(request, fields)
        if method not in ("GET", "HEAD"):
            answer = Answer(405, b"only GET and HEAD\n") if method else Answer(400, b"not an HTTP request\n")
        else:
            answer = self.answer(path, accept)
        writer.write(
            f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}\r\nContent-Type: {answer.content_type}\r\n"
            f"Content-Length: {len(answer.body)}\r\nConnection: close\r\n\r\n".encode()
        )
        writer.write(b"" if method == "HEAD" else answer.body)
        await writer.drain()


def _parse(request: str, fields: str) -> tuple[str, str, str]:
    """Return method, path and Accept of a request (RFC 9112 §3); the method is "" if it is not a request."""
    parts = request.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        return "", "", ""
    accept = ""
    for line in fields.split("\r\n"):
        name, _, value = line.partition(":")
        if name.lower() == "accept":
            accept = value.strip()
    return parts[0], parts[1].partition("?")[0], accept


def _lines(texts: list[str]) -> bytes:
    return "".join(f"{text}\n" for text in texts).encode()
