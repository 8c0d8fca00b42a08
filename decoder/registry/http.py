"""HTTP with registries: connections, TLS and proxies of urllib3, with our own bounds on time and size.

urllib3 pulls the body of a request from an iterator. But blobs are pushed while they are encrypted, so an upload has
its own connection (`Sending`), and needs no second thread.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

import urllib3

from decoder import __version__, limits
from decoder.errors import ImageError
from decoder.registry.connections import Connections
from decoder.registry.hosts import Origin, UnreachableError, naming, origin_of

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from urllib3.response import BaseHTTPResponse

    from decoder.registry.connections import Connection

_AGENT = {"User-Agent": f"ctd-decoder/{__version__}"}


class Response:
    """A reply whose body can still be read. If the whole body was read, closing it keeps the connection.

    Attributes:
        status: the HTTP status code (RFC 9110 §15).
        headers: the headers by name, in any letter case.
        host: the host that replied, for messages.
    """

    def __init__(self, origin: Origin, response: BaseHTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.host = str(origin)
        self._response = response
        self._received = 0
        self._waited = 0.0

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def length(self) -> int | None:
        """The number of bytes that remain to be read; None if the reply does not say."""
        return self._response.length_remaining

    def readinto(self, buffer: memoryview, /) -> int:
        """Read the bytes that have arrived, at most as many as fit; return how many, 0 at the end.

        Raises:
            UnreachableError: the connection was lost, or is too slow.
        """
        began = monotonic()
        with naming(self.host):
            data = self._response.read1(len(buffer), decode_content=False)
        self._received += len(data)
        self._waited += monotonic() - began
        if self._waited > limits.REGISTRY_IDLE_SECONDS + self._received / limits.REGISTRY_LEAST_RATE:
            raise UnreachableError(f"{self.host} sends less than {limits.REGISTRY_LEAST_RATE} bytes per second")
        buffer[: len(data)] = data
        return len(data)

    def read(self, most: int) -> bytes:
        """Read a whole body.

        Raises:
            ImageError: it has more than `most` bytes.
            UnreachableError: the connection was lost.
        """
        body = bytearray()
        buffer = memoryview(bytearray(limits.READ_BYTES))
        while length := self.readinto(buffer):
            body += buffer[:length]
            if len(body) > most:
                raise ImageError(f"{self.host} replies with more than {most} bytes")
        return bytes(body)

    def close(self) -> None:
        """Return the connection to the pool, or close it if some of the body is unread."""
        if self.length == 0:
            self._response.drain_conn()  # reads nothing, but tells the connection that the body is complete
        else:
            self._response.close()
        self._response.release_conn()


class Sending:
    """A request on its own connection, whose body the caller sends; only the caller can repeat it."""

    def __init__(self, origin: Origin, connection: Connection) -> None:
        self._origin = origin
        self._connection = connection

    def send(self, data: memoryview) -> None:
        """Send a part of the body.

        Raises:
            UnreachableError: the connection was lost.
        """
        with naming(str(self._origin)):
            self._connection.send(data)

    def finish(self, seconds: float) -> Response:
        """Read the head of the reply, within a number of seconds.

        Raises:
            UnreachableError: there is no reply.
        """
        self._connection.timeout = seconds
        with naming(str(self._origin)):
            return Response(self._origin, self._connection.getresponse())

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class Web:
    """Connections to the hosts that one registry refers to; for several threads.

    Args:
        tls: the certificates to accept and to show.
    """

    def __init__(self, tls: ssl.SSLContext) -> None:
        self._connections = Connections(tls)

    def close(self) -> None:
        """Close the connections that are kept for further requests."""
        self._connections.clear()

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
        seconds: float = limits.REGISTRY_IDLE_SECONDS,
    ) -> Response:
        """Send a request once, without following redirects, and read the head of the reply.

        Args:
            method: the HTTP method.
            url: the absolute URL.
            headers: headers besides those that HTTP requires.
            body: the body, or None.
            seconds: how long the head of the reply may take.

        Raises:
            UnreachableError: the host cannot be reached, or the connection was lost.
            ImageError: the certificate is not accepted.
        """
        origin = origin_of(url)
        timeout = urllib3.Timeout(connect=limits.REGISTRY_CONNECT_SECONDS, read=seconds)
        with naming(str(origin)):
            reply = self._connections.pools(origin).urlopen(
                method,
                url,
                redirect=False,
                body=body,
                headers={**_AGENT, **headers},
                timeout=timeout,
                retries=False,
                preload_content=False,
            )
        return Response(origin, reply)

    def begin(self, method: str, url: str, headers: Mapping[str, str], size: int) -> Sending:
        """Begin a request with a body of `size` bytes, which the caller sends.

        Raises:
            UnreachableError: the host cannot be reached, or the connection was lost.
        """
        origin = origin_of(url)
        connection = self._connections.alone(origin)
        target = urllib3.util.parse_url(url).request_uri
        head = {**_AGENT, "Content-Length": str(size), **headers}
        try:
            with naming(str(origin)):
                connection.connect()
                connection.auto_open = 0  # reconnecting would lose the part of the body that was sent
                connection.sock.settimeout(limits.REGISTRY_IDLE_SECONDS)  # type: ignore[union-attr]  # it is connected
                connection.request(method, target, headers=head, preload_content=False, decode_content=False)
        except BaseException:
            connection.close()
            raise
        return Sending(origin, connection)
