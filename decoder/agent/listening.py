"""The agent's socket: inherited from systemd, or made. Only its owner may connect to it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from decoder import limits
from decoder.errors import UsageError
from decoder.node import unixsocket

_FIRST_PASSED = 3  # sd_listen_fds(3)
_FIRST_OF_OURS = 10  # a worker's descriptors 0 to 3 are its client's


def inherited() -> socket.socket:
    """Take the one socket that systemd passes.

    Raises:
        UsageError: there is none, more than one, or one that is not a listening Unix stream socket.
    """
    if os.environ.pop("LISTEN_PID", "") != str(os.getpid()) or os.environ.pop("LISTEN_FDS", "") != "1":
        raise UsageError("systemd passes no socket; without it, --listen PATH is needed")
    os.environ.pop("LISTEN_FDNAMES", None)
    try:
        with socket.socket(fileno=_FIRST_PASSED) as passed:
            accepts = passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            if (passed.family, passed.type, accepts) != (socket.AF_UNIX, socket.SOCK_STREAM, 1):
                raise UsageError("what systemd passes is not a listening Unix stream socket")
            return _out_of_the_way(passed)
    except OSError:
        raise UsageError("what systemd passes is no socket") from None


@contextmanager
def listening(path: str) -> Iterator[socket.socket]:
    """Listen on a socket with mode 0600, and remove it at the end.

    Args:
        path: absolute, in a directory that no other user can write to. A stale socket there is replaced.

    Raises:
        UsageError: the path is not absolute, or too long.
        ListenError: the socket cannot be made there, or the directory is not safe.
    """
    unixsocket.check_path(path, "--listen")
    unixsocket.check_directory(path)
    with unixsocket.listening(path, limits.AGENT_BACKLOG) as made, _out_of_the_way(made) as listener:
        made.close()
        yield listener


def _out_of_the_way(listener: socket.socket) -> socket.socket:
    from fcntl import F_DUPFD_CLOEXEC, fcntl

    copy = socket.socket(fileno=fcntl(listener, F_DUPFD_CLOEXEC, _FIRST_OF_OURS))
    copy.setblocking(False)
    return copy
