"""Connections of urllib3 to the hosts of one registry: pooled, or single for an upload; direct or through a proxy."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from functools import cached_property
from socket import SHUT_RDWR, socket
from threading import Event, Timer
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection, ProxyConfig

from decoder import limits

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from urllib3.response import BaseHTTPResponse

    from decoder.registry.hosts import Origin


class _HeadInTime:
    """A connection that bounds the time for the head of the reply; socket timeouts restart with every byte."""

    sock: socket | None
    timeout: float | None

    def getresponse(self) -> BaseHTTPResponse:
        sock = self.sock
        if sock is None:
            raise ConnectionResetError
        sock.settimeout(self.timeout)
        with _deadline(sock, self.timeout or limits.REGISTRY_IDLE_SECONDS):
            response: BaseHTTPResponse = super().getresponse()  # type: ignore[misc]
        if self.sock is sock:  # otherwise the connection closes after this reply, which owns the socket now
            sock.settimeout(limits.REGISTRY_IDLE_SECONDS)
        return response


class _Plain(_HeadInTime, HTTPConnection):  # type: ignore[misc]
    pass


class _Tls(_HeadInTime, HTTPSConnection):  # type: ignore[misc]
    pass


class _PlainPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Plain


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _Tls


Connection = _Plain | _Tls


class Connections:
    """The source of connections for requests; for several threads.

    Args:
        tls: the certificates to accept and to show.
    """

    def __init__(self, tls: ssl.SSLContext) -> None:
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # the user chose --tls-verify=false
        self._tls = tls

    def pools(self, origin: Origin) -> urllib3.PoolManager:
        """Return the pool of connections to a host."""
        return self._proxied if _proxy(origin) else self._direct

    def alone(self, origin: Origin) -> Connection:
        """Return a connection outside the pools, which is not connected yet."""
        seconds = limits.REGISTRY_CONNECT_SECONDS
        if origin.scheme == "http":
            return _Plain(origin.host, origin.port, timeout=seconds)
        text = _proxy(origin)
        if not text:
            return _Tls(origin.host, origin.port, timeout=seconds, ssl_context=self._tls)
        proxy, config = urllib3.util.parse_url(text), ProxyConfig(self._tls, False, None, None)
        port = proxy.port or (443 if proxy.scheme == "https" else 80)
        connection = _Tls(
            proxy.host or "", port, timeout=seconds, ssl_context=self._tls, proxy=proxy, proxy_config=config
        )
        connection.set_tunnel(origin.host, origin.port, _proxy_headers(text), proxy.scheme or "http")
        return connection

    def clear(self) -> None:
        """Close the pooled connections."""
        for name in ("_direct", "_proxied"):
            if manager := self.__dict__.get(name):
                manager.clear()

    @cached_property
    def _direct(self) -> urllib3.PoolManager:
        return _timed(urllib3.PoolManager(maxsize=limits.REGISTRY_IDLE_CONNECTIONS, ssl_context=self._tls))

    @cached_property
    def _proxied(self) -> urllib3.PoolManager:
        proxy = _environment_proxy()
        headers, tls = _proxy_headers(proxy), self._tls
        return _timed(
            urllib3.ProxyManager(
                proxy,
                maxsize=limits.REGISTRY_IDLE_CONNECTIONS,
                proxy_headers=headers,
                ssl_context=tls,
                proxy_ssl_context=tls,
            )
        )


def _timed(manager: urllib3.PoolManager) -> urllib3.PoolManager:
    manager.pool_classes_by_scheme = {"http": _PlainPool, "https": _TlsPool}
    return manager


@contextmanager
def _deadline(sock: socket, seconds: float) -> Iterator[None]:
    """Shut a socket down after a number of seconds, even if it is still sending."""
    is_late = Event()
    timer = Timer(seconds, _shut_down, [sock, is_late])
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception:
        if not is_late.is_set():
            raise
    finally:
        timer.cancel()
    if is_late.is_set():  # any other failure came from the shutdown
        raise TimeoutError


def _shut_down(sock: socket, is_late: Event) -> None:
    is_late.set()
    with suppress(OSError):
        sock.shutdown(SHUT_RDWR)


def _proxy(origin: Origin) -> str:
    """Return the URL of the proxy for a host, or "". Plain HTTP never uses a proxy, because it is for nearby hosts."""
    if origin.scheme != "https" or origin.is_loopback or proxy_bypass(str(origin)):
        return ""
    return _environment_proxy()


def _environment_proxy() -> str:
    proxy = getproxies().get("https", "")
    return proxy if not proxy or "//" in proxy else f"http://{proxy}"


def _proxy_headers(proxy: str) -> dict[str, str]:
    parts = urlsplit(proxy)
    if not parts.username:
        return {}
    return urllib3.make_headers(proxy_basic_auth=f"{unquote(parts.username)}:{unquote(parts.password or '')}")
