"""Whether a file is still the same as before."""

from __future__ import annotations

import os


def state_of(path: str) -> tuple[int, ...]:
    """Return values that change when a file is written to or replaced; () if it does not exist."""
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
