"""Checks whether a server is listening: a connection is made, and closed at once."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from decoder.provider.errors import ProviderError


def reach_port(host: str, port: int, seconds: float) -> None:
    """Check that a server accepts connections on a TCP port, without sending anything.

    Raises:
        ProviderError: no server accepts the connection in time.
    """
    try:
        socket.create_connection((host.strip("[]"), port), seconds).close()
    except (OSError, ValueError) as error:
        raise ProviderError(f"no connection: {getattr(error, 'strerror', None) or error}") from error


def reach_url(url: str, seconds: float) -> None:
    """Check that the server of a URL accepts connections, or the proxy that the environment names for it.

    Raises:
        ProviderError: no server accepts the connection in time.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    proxy = "" if proxy_bypass(host) else getproxies().get(parts.scheme, "")
    where = urlsplit(proxy if "//" in proxy else f"//{proxy}") if proxy else parts
    try:
        port = where.port or (443 if where.scheme == "https" else 80)
    except ValueError as error:
        raise ProviderError("its address has a port that is not a number up to 65535") from error
    reach_port(where.hostname or "", port, seconds)


def reach_socket(path: str, seconds: float) -> None:
    """Check that a server accepts connections on a Unix socket, without sending anything.

    Raises:
        ProviderError: no server accepts the connection in time.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(seconds)
            connection.connect(path)
    except OSError as error:
        raise ProviderError(f"no connection: {error.strerror or error}") from error
