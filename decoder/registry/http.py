"""HTTP for registries: connections that are kept, bounds on time and size, and blobs streamed both ways.

The standard library's `http.client` does it: a blob is pushed into a request as it is made, where requests, urllib3
and httpx pull bodies from an iterator and so need a thread for each blob, and a reply is read as it comes.
"""

from __future__ import annotations

import http.client
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from socket import SHUT_RDWR, socket
from threading import Event, Lock, Timer
from time import monotonic, sleep
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from decoder import __version__, limits
from decoder.errors import ImageError
from decoder.registry.hosts import NotTlsError, Origin, UnreachableError, naming, origin_of
from decoder.registry.retries import pauses

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

_BUSY = (408, 429, 500, 502, 503, 504)
_IDLE_CONNECTIONS = 8
_READ_BYTES = 64 * limits.KIB


class Response:
    """A reply, whose body is still to be read; closing it keeps the connection if everything was.

    Attributes:
        status: as RFC 9110 §15 numbers them.
        headers: by name in any case.
    """

    def __init__(self, origin: Origin, response: http.client.HTTPResponse, done: Callable[[bool], None]) -> None:
        self.status = response.status
        self.headers = response.headers
        self.host = str(origin)
        self._response = response
        self._done = done
        self._received = 0
        self._waited = 0.0

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def length(self) -> int | None:
        """How many bytes are left to read, if the reply says."""
        return self._response.length

    def readinto(self, buffer: memoryview, /) -> int:
        """Read at most as much as fits, as it comes; 0 at the end.

        Raises:
            UnreachableError: the connection broke off, or is too slow.
        """
        began = monotonic()
        with naming(self.host):
            data = self._response.read1(len(buffer))
        if not data and buffer and self.length:
            raise UnreachableError(f"{self.host} broke the connection off")
        self._received += len(data)
        self._waited += monotonic() - began
        if self._waited > limits.REGISTRY_IDLE_SECONDS + self._received / limits.REGISTRY_LEAST_RATE:
            raise UnreachableError(f"{self.host} sends less than {limits.REGISTRY_LEAST_RATE} bytes in a second")
        buffer[: len(data)] = data
        return len(data)

    def read(self, most: int) -> bytes:
        """Read all of a body.

        Raises:
            ImageError: it has more than so many bytes.
            UnreachableError: the connection broke off.
        """
        body = bytearray()
        buffer = memoryview(bytearray(_READ_BYTES))
        while length := self.readinto(buffer):
            body += buffer[:length]
            if len(body) > most:
                raise ImageError(f"{self.host} replies with more than {most} bytes")
        return bytes(body)

    def close(self) -> None:
        """Give the connection back, or end it."""
        is_whole = self._response.isclosed() or self.length == 0
        self._response.close()
        self._done(is_whole and not self._response.will_close)


class Sending:
    """A request whose body is being sent, on a connection of its own: it cannot be sent again by itself."""

    def __init__(self, origin: Origin, connection: http.client.HTTPConnection) -> None:
        self._origin = origin
        self._connection = connection

    def send(self, data: memoryview) -> None:
        """Send some of the body.

        Raises:
            UnreachableError: the connection broke off.
        """
        with naming(str(self._origin)):
            self._connection.send(data)

    def finish(self, seconds: float) -> Response:
        """Read the head of the reply, which may take so many seconds.

        Raises:
            UnreachableError: there is none.
        """
        response = _reply(self._origin, self._connection, seconds)
        return Response(self._origin, response, lambda _: self._connection.close())

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


class Web:
    """Connections to the hosts that one registry leads to; for several threads.

    Args:
        tls: whose certificates are accepted, and which is shown.
    """

    def __init__(self, tls: ssl.SSLContext) -> None:
        self._tls = tls
        self._lock = Lock()
        self._idle: list[tuple[Origin, http.client.HTTPConnection]] = []

    def __enter__(self) -> Web:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            for _origin, connection in self._idle:
                connection.close()
            self._idle.clear()

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
        seconds: float = limits.REGISTRY_IDLE_SECONDS,
    ) -> Response:
        """Send a request, and read the head of its reply, once.

        Args:
            method: of HTTP.
            url: absolute.
            headers: beside those which HTTP demands.
            body: to send.
            seconds: how long the head may take.

        Raises:
            UnreachableError: there is no connection, or it broke off.
            ImageError: the certificate is not accepted.
        """
        origin = origin_of(url)
        connection = self._take(origin) or self._connect(origin)
        try:
            with naming(str(origin)):
                connection.request(method, _target(url), body, {"User-Agent": _agent(), **headers})
            response = _reply(origin, connection, seconds)
        except BaseException:
            connection.close()
            raise
        return Response(origin, response, lambda is_free: self._give_back(origin, connection, is_free))

    def begin(self, method: str, url: str, headers: Mapping[str, str], size: int) -> Sending:
        """Begin a request whose body of so many bytes follows.

        Raises:
            UnreachableError: there is no connection, or it broke off.
        """
        origin = origin_of(url)
        connection = self._connect(origin)
        try:
            with naming(str(origin)):
                connection.putrequest(method, _target(url), skip_accept_encoding=True)
                for name, value in {"User-Agent": _agent(), "Content-Length": str(size), **headers}.items():
                    connection.putheader(name, value)
                connection.endheaders()
        except BaseException:
            connection.close()
            raise
        return Sending(origin, connection)

    def _connect(self, origin: Origin) -> http.client.HTTPConnection:
        """Connect; with a proxy for TLS if the environment names one, while plain HTTP is for hosts nearby."""
        proxy = None
        if origin.scheme == "https":
            proxy = None if origin.is_loopback else _proxy(origin)
            place = origin_of(proxy) if proxy else origin
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                place.host, place.port, timeout=limits.REGISTRY_CONNECT_SECONDS, context=self._tls
            )
        else:
            connection = http.client.HTTPConnection(origin.host, origin.port, timeout=limits.REGISTRY_CONNECT_SECONDS)
        connection.auto_open = 0  # or the rest of a body would go to a connection that knows nothing of its start
        try:
            if proxy:
                connection.set_tunnel(origin.host, origin.port, _proxy_headers(proxy))
            with naming(str(origin)):
                connection.connect()
                connection.sock.settimeout(limits.REGISTRY_IDLE_SECONDS)
        except BaseException:
            connection.close()
            raise
        return connection

    def _take(self, origin: Origin) -> http.client.HTTPConnection | None:
        with self._lock:
            for place, (known, connection) in enumerate(self._idle):
                if known == origin:
                    del self._idle[place]
                    return connection
        return None

    def _give_back(self, origin: Origin, connection: http.client.HTTPConnection, is_free: bool) -> None:
        with self._lock:
            if is_free and len(self._idle) < _IDLE_CONNECTIONS:
                self._idle.append((origin, connection))
                return
        connection.close()


def with_retries(attempt: Callable[[], Response]) -> Response:
    """Send a request that may be sent twice; again, after growing pauses, while its host is busy or drops it.

    Args:
        attempt: sends it once.

    Returns:
        The reply, which may still be that the host is busy.

    Raises:
        UnreachableError: the last connection broke off, too.
    """
    for pause in pauses():
        try:
            response = attempt()
        except NotTlsError:
            raise
        except UnreachableError:
            sleep(pause)
            continue
        if not is_busy(response):
            return response
        response.close()
        sleep(max(pause, _asked_pause(response)))
    return attempt()


def is_busy(response: Response) -> bool:
    """Tell whether the same request may be answered otherwise a little later."""
    return response.status in _BUSY


def _asked_pause(response: Response) -> float:
    """Read Retry-After in seconds (RFC 9110 §10.2.3), at most REGISTRY_RETRY_AFTER_SECONDS."""
    text = response.headers.get("Retry-After", "").strip()
    asked = float(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0.0
    return min(asked, limits.REGISTRY_RETRY_AFTER_SECONDS)


def _reply(origin: Origin, connection: http.client.HTTPConnection, seconds: float) -> http.client.HTTPResponse:
    """Read the head of a reply; a host that sends it byte by byte has no more time than another."""
    sock = connection.sock
    if sock is None:
        raise UnreachableError(f"{origin} broke the connection off")
    sock.settimeout(seconds)
    is_late = Event()
    timer = Timer(seconds, _shut_down, [sock, is_late])
    timer.daemon = True
    timer.start()
    try:
        with naming(str(origin)):
            response = connection.getresponse()
    except UnreachableError:
        if is_late.is_set():
            raise UnreachableError(f"{origin} did not answer in time") from None
        raise
    finally:
        timer.cancel()
    if connection.sock is sock:  # or the reply is the last on it, and has it
        sock.settimeout(limits.REGISTRY_IDLE_SECONDS)
    return response


def _shut_down(sock: socket, is_late: Event) -> None:
    is_late.set()
    with suppress(OSError):
        sock.shutdown(SHUT_RDWR)


def _target(url: str) -> str:
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _agent() -> str:
    return f"ctd-decoder/{__version__}"


def _proxy(origin: Origin) -> str | None:
    from urllib.request import getproxies, proxy_bypass

    proxy = getproxies().get("https")
    if not proxy or proxy_bypass(str(origin)):
        return None
    return proxy if "//" in proxy else f"http://{proxy}"


def _proxy_headers(proxy: str) -> dict[str, str]:
    parts = urlsplit(proxy)
    if not parts.username:
        return {}
    login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Proxy-Authorization": f"Basic {b64encode(login.encode()).decode()}"}
