"""The agent's socket in its directory: the client has made both (packaging/client/place.c)."""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import suppress

from decoder import limits


class Endpoint:
    """A listening socket, and where clients find it.

    Args:
        listener: the socket.
        directory: a descriptor of its directory, which only our user can use.
        name: its name there.

    Raises:
        OSError: the socket is not there any more.
    """

    def __init__(self, listener: socket.socket, directory: int, name: str) -> None:
        listener.setblocking(False)
        listener.listen(limits.AGENT_BACKLOG)  # from now on clients are told that it is our process
        self.listener = listener
        self.name = name
        self._directory = directory
        self._identity = self._look()

    def is_current(self) -> bool:
        """Check whether clients still find this socket under its name."""
        try:
            return self._look() == self._identity
        except OSError:
            return False

    def remove(self) -> None:
        """Remove the socket's name, unless another socket has it by now; the next client then starts another agent."""
        with suppress(OSError):
            lock = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._directory)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)  # clients hold it for a moment, while they make a socket
                if self.is_current():
                    os.unlink(self.name, dir_fd=self._directory)
            finally:
                os.close(lock)

    def has_client(self) -> bool:
        """Check whether a client waits to be accepted."""
        import select

        queue = select.poll()
        queue.register(self.listener, select.POLLIN)
        return bool(queue.poll(0))

    def send_away(self) -> int:
        """Hang up on every client that waits, and return how many that were."""
        count = 0
        with suppress(BlockingIOError, ConnectionAbortedError):
            while True:
                self.listener.accept()[0].close()
                count += 1
        return count

    def _look(self) -> tuple[int, int]:
        status = os.stat(self.name, dir_fd=self._directory, follow_symlinks=False)
        return status.st_dev, status.st_ino
