"""A server that answers every request with the same bytes, whatever they are, and hangs up."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from functools import cache


class AnyAnswer:
    """Listens on the loopback interface.

    Attributes:
        data: what every request is answered with.
        port: where it listens.
    """

    def __init__(self) -> None:
        self.data = b""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    @classmethod
    def running(cls) -> AnyAnswer:
        """Return the one of this process."""
        return _running()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection, suppress(OSError):
                connection.settimeout(5)
                connection.recv(65536)
                connection.sendall(self.data)
                connection.shutdown(socket.SHUT_RDWR)


@cache
def _running() -> AnyAnswer:
    return AnyAnswer()
