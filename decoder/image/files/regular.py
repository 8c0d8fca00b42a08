"""Opening regular files. Other kinds of files are rejected, because they could block, or lead to another place."""

from __future__ import annotations

import os
import stat
from io import FileIO

from decoder.errors import ImageError

_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


def open_regular(name: str, shown: str, folder: int | None = None) -> FileIO:
    """Open a regular file.

    Args:
        name: its path, or its name in `folder`.
        shown: the name in messages, quoted.
        folder: the descriptor of its directory, where links are not followed.

    Raises:
        ImageError: it is not a regular file.
        OSError: it cannot be opened.
    """
    flags = _READ if folder is None else _READ | os.O_NOFOLLOW
    file = FileIO(os.open(name, flags, dir_fd=folder), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ImageError(f"{shown} is not a regular file")
    return file
