"""Room for temporary files: a small compressed file may expand to any size, and must not fill the disk."""

from __future__ import annotations

import os
import tempfile

from decoder import limits
from decoder.errors import ImageError, quoted


def check_room(descriptor: int, size: int, name: str) -> None:
    """Check that a temporary file leaves enough room for other programs.

    Args:
        descriptor: the file.
        size: the number of bytes to write next.
        name: the name of the written data, for the message.

    Raises:
        ImageError: TEMPORARY_RESERVE_SHARE of the file system, or TEMPORARY_RESERVE_BYTES, would not stay free.
        OSError: the file system cannot be asked.
    """
    status = os.fstatvfs(descriptor)
    free, total = status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize
    reserve = min(limits.TEMPORARY_RESERVE_BYTES, int(total * limits.TEMPORARY_RESERVE_SHARE))
    if total and free - size < reserve:
        written = os.fstat(descriptor).st_size // limits.MIB
        raise ImageError(
            f"{name}: {quoted(tempfile.gettempdir())} has no room for it: {written} MiB were written, and the last "
            f"{reserve // limits.MIB} MiB are left to other programs; set TMPDIR to a directory with more room"
        )
