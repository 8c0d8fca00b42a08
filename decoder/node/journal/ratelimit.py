"""A limit on the number of messages that all decoders of one user together write to the journal."""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from time import time

from decoder import limits

_STATE = struct.Struct("<QI")  # start of the window in seconds since 1970, messages in it


def default_file() -> str:
    """Return the file that counts messages: in /run for root, otherwise in $XDG_RUNTIME_DIR; "" if that is not set."""
    directory = "/run" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR", "")
    return os.path.join(directory, "ctd-decoder.journal") if directory else ""


def remaining(file: str) -> int:
    """Count a message, and return how many more are allowed within the current JOURNAL_WINDOW_SECONDS.

    Args:
        file: the file that holds the count; it is created if it is absent.

    Returns:
        A negative number if this message is one too many. JOURNAL_MESSAGES if the file cannot be used; then only
        journald's own limit applies.
    """
    with suppress(OSError):
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(file, flags, 0o600)
        try:
            flock(descriptor, LOCK_EX | LOCK_NB)
            start, count = _read(descriptor)
            now = int(time())
            if not start <= now < start + limits.JOURNAL_WINDOW_SECONDS:
                start, count = now, 0
            count = min(count + 1, limits.JOURNAL_MESSAGES + 1)
            os.pwrite(descriptor, _STATE.pack(start, count), 0)
            return limits.JOURNAL_MESSAGES - count
        finally:
            os.close(descriptor)
    return limits.JOURNAL_MESSAGES


def _read(descriptor: int) -> tuple[int, int]:
    data = os.pread(descriptor, _STATE.size, 0)
    return _STATE.unpack(data) if len(data) == _STATE.size else (0, 0)
