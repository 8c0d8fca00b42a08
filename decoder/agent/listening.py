"""The agent's socket: inherited from systemd, or made. Only its owner may connect to it."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from decoder import limits
from decoder.errors import DecoderError, UsageError, quoted

_FIRST_PASSED = 3  # sd_listen_fds(3)
_FIRST_OF_OURS = 10  # a worker's descriptors 0 to 3 are its client's
_PATH_BYTES = 107  # unix(7)


class AgentSocketError(DecoderError):
    """The agent cannot listen where it was told to."""

    status = 7


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
    """Make a socket with mode 0600, and remove it at the end.

    Args:
        path: absolute; in a directory that nobody else can write to. A socket that nobody listens on is replaced.

    Raises:
        UsageError: the path is not absolute, or too long.
        AgentSocketError: the socket cannot be made there, or the directory is not safe.
    """
    if not os.path.isabs(path) or len(os.fsencode(path)) > _PATH_BYTES:
        raise UsageError(f"--listen needs an absolute path of at most {_PATH_BYTES} bytes")
    try:
        _check_directory(os.path.dirname(path))
        _remove_stale(path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
            before = os.umask(0o177)
            try:
                made.bind(path)
            finally:
                os.umask(before)
            made.listen(limits.AGENT_BACKLOG)
            listener = _out_of_the_way(made)
        identity = _identity(path)
    except OSError as error:
        raise AgentSocketError(f"cannot listen on {quoted(path)}: {error.strerror}") from None
    try:
        with listener:
            yield listener
    finally:
        with suppress(OSError):
            if _identity(path) == identity:
                os.unlink(path)


def _out_of_the_way(listener: socket.socket) -> socket.socket:
    from fcntl import F_DUPFD_CLOEXEC, fcntl

    copy = socket.socket(fileno=fcntl(listener, F_DUPFD_CLOEXEC, _FIRST_OF_OURS))
    copy.setblocking(False)
    return copy


def _check_directory(directory: str) -> None:
    status = os.stat(directory)
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise AgentSocketError(f"others can write to {quoted(directory)}, and so put another socket there")


def _remove_stale(path: str) -> None:
    if not os.path.lexists(path):
        return
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise AgentSocketError(f"{quoted(path)} is there already, and is no socket")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(limits.AGENT_REQUEST_SECONDS)
        try:
            client.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        else:
            raise AgentSocketError(f"another agent listens on {quoted(path)}")


def _identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino
