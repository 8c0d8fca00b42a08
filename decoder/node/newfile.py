"""Writing a file that must not exist yet."""

from __future__ import annotations

import os
from contextlib import suppress


def write_new(path: str, data: bytes, mode: int = 0o600) -> None:
    """Write a new file to the disk, or leave nothing behind.

    Args:
        path: where; nothing may be there.
        data: the content.
        mode: the permissions, whatever the umask is.

    Raises:
        OSError: something is there, or the file cannot be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except OSError:
        with suppress(OSError):
            os.unlink(path)
        raise
