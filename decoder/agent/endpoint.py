"""The agent's socket and its directory, which the client creates (packaging/client/place.c)."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

from decoder import limits
from decoder.errors import DecoderError
from decoder.node import unixsocket


class Endpoint:
    """A listening socket, and where clients find it.

    Args:
        listener: the socket, bound but not yet listening.
        directory: the descriptor of the socket's directory, which only our user can use.
        name: the socket's name there.

    Raises:
        OSError: the socket was removed.
    """

    def __init__(self, listener: socket.socket, directory: int, name: str) -> None:
        listener.setblocking(False)
        listener.listen(limits.AGENT_BACKLOG)  # from now on, clients see this process as the owner of the socket
        self.listener = listener
        self.name = name
        self._path = f"/proc/self/fd/{directory}/{name}"
        self._identity = self._look()

    def is_current(self) -> bool:
        """Check whether clients still find this socket under its name."""
        try:
            return self._look() == self._identity
        except OSError:
            return False

    def remove(self) -> None:
        """Remove the socket's name, unless another socket has replaced it. The next client starts another agent."""
        with suppress(OSError, DecoderError), unixsocket.locked(self._path):
            if self.is_current():
                os.unlink(self._path)

    def has_client(self) -> bool:
        """Check whether a client is waiting to be accepted."""
        import select

        queue = select.poll()
        queue.register(self.listener, select.POLLIN)
        return bool(queue.poll(0))

    def send_away(self) -> int:
        """Close the connections of all waiting clients, and return their number."""
        count = 0
        with suppress(OSError):  # nobody waits any more, or there is no free descriptor
            while True:
                self.listener.accept()[0].close()
                count += 1
        return count

    def _look(self) -> tuple[int, int]:
        return unixsocket.identity(self._path)
