"""Connections that are closed at once: they tell whether anybody listens."""

from __future__ import annotations

import socket

from decoder.provider.errors import ProviderError


def reach_port(host: str, port: int, seconds: float) -> None:
    """Connect to a TCP port, and send nothing.

    Raises:
        ProviderError: nobody answers there within so many seconds.
    """
    try:
        socket.create_connection((host.strip("[]"), port), seconds).close()
    except (OSError, ValueError) as error:
        raise ProviderError(f"no connection: {getattr(error, 'strerror', None) or error}") from error


def reach_socket(path: str, seconds: float) -> None:
    """Connect to a Unix socket, and send nothing.

    Raises:
        ProviderError: nobody answers there within so many seconds.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(seconds)
            connection.connect(path)
    except OSError as error:
        raise ProviderError(f"no connection: {error.strerror or error}") from error
