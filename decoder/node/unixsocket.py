"""Unix sockets in the file system: listening on one, and removing a stale one but never a live one (unix(7))."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic, sleep

from decoder import limits
from decoder.errors import DecoderError, UsageError, quoted


class ListenError(DecoderError):
    """The program cannot listen at a configured address."""

    status = 7


def check_path(path: str, option: str) -> None:
    """Check that a socket can have this path.

    Args:
        path: the path for the socket.
        option: the option that names it, for the message.

    Raises:
        UsageError: the path is not absolute, or longer than UNIX_PATH_BYTES.
    """
    if not os.path.isabs(path) or len(os.fsencode(path)) > limits.UNIX_PATH_BYTES:
        raise UsageError(f"{option} needs an absolute path of at most {limits.UNIX_PATH_BYTES} bytes")


@contextmanager
def listening(path: str, backlog: int) -> Iterator[socket.socket]:
    """Listen on a stream socket that only this user can connect to, and remove it at the end.

    Args:
        path: a path that `check_path` accepts. A stale socket there is replaced.
        backlog: how many connections may wait to be accepted.

    Raises:
        ListenError: the socket cannot be created there.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        with _claimed(path):
            try:
                listener.bind(path)
            except OSError as error:
                raise _refusal(path, error) from error
            listener.listen(backlog)
        with _removed_at_end(path):
            yield listener


@contextmanager
def _claimed(path: str) -> Iterator[None]:
    """Remove a stale socket. In the block, the caller creates a new one; only this user can connect to it.

    The directory is locked until the block ends, so that two servers that start at the same time do not remove each
    other's socket.

    Raises:
        ListenError: the directory does not exist, another program uses the path, or it is not a socket.
    """
    with locked(path):
        _remove_stale(path)
        before = os.umask(0o177)
        try:
            yield
        finally:
            os.umask(before)


@contextmanager
def _removed_at_end(path: str) -> Iterator[None]:
    """Remove the socket at a path when the block ends, but not a socket that has replaced it."""
    before = identity(path)
    try:
        yield
    finally:
        with suppress(OSError):
            if identity(path) == before:
                os.unlink(path)


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Lock the directory of a socket, waiting for SOCKET_LOCK_SECONDS at most; packaging/client/place.c does it, too.

    Raises:
        ListenError: the directory does not exist, or another program keeps the lock.
    """
    try:
        directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _refusal(path, error) from error
    try:
        deadline = monotonic() + limits.SOCKET_LOCK_SECONDS
        while not _is_locked(directory):
            if monotonic() > deadline:
                raise _refusal(path, "another program keeps its directory locked; fuser shows which")
            sleep(limits.SOCKET_LOCK_POLL_SECONDS)
        yield
    finally:
        os.close(directory)


def _is_locked(directory: int) -> bool:
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks
    return True


def _remove_stale(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise _refusal(path, "it exists and is not a socket")
        if _is_in_use(path):
            raise _refusal(path, "another program uses this socket")
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _refusal(path, error) from error


def _is_in_use(path: str) -> bool:
    """Check whether any program has a socket of any type bound to a path.

    The probe is a datagram socket, because its connect(2) never waits and takes no place in a stream socket's backlog.
    ECONNREFUSED says that no socket is bound there. Every other result may mean that one is: EPROTOTYPE (a stream or
    seqpacket socket), EPERM (a datagram socket with a peer), EACCES (no permission to find out).
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
    return True


def identity(path: str) -> tuple[int, int]:
    """Return the file system and the inode of a socket; no other file has the same while this socket is open.

    Raises:
        OSError: nothing has this path.
    """
    status = os.lstat(path)
    return status.st_dev, status.st_ino


def _refusal(path: str, reason: OSError | str) -> ListenError:
    text = reason if isinstance(reason, str) else reason.strerror
    return ListenError(f"cannot listen on {quoted(path)}: {text}")
