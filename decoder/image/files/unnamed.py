"""Files without a name (open(2), O_TMPFILE), which the kernel deletes unless they are given one.

Symbolic links in the place of a name are replaced, never followed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO

from decoder.errors import ImageError, quoted

_NO_UNNAMED_FILES = (errno.EOPNOTSUPP, errno.EISDIR)  # NFS, FUSE, overlayfs of older kernels
_MODE = 0o644

GiveName = Callable[[int, str], None]
"""Link the file to a name in a directory (given by its descriptor), and replace a file of that name."""


@contextmanager
def unnamed_file(directory: int) -> Iterator[tuple[FileIO, GiveName]]:
    """Open an invisible file.

    If the file system does not support unnamed files, the file has a hidden name at first.

    Args:
        directory: the descriptor of a directory on the file system where the name will be.

    Yields:
        The file, to write and read, and the function that names it.

    Raises:
        OSError: the file cannot be created.
    """
    hidden = ""
    try:
        descriptor = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, _MODE, dir_fd=directory)
    except OSError as error:
        if error.errno not in _NO_UNNAMED_FILES:
            raise
        hidden = _hidden_name()
        descriptor = os.open(hidden, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, _MODE, dir_fd=directory)

    def give_name(place: int, name: str) -> None:
        if hidden:
            os.replace(hidden, name, src_dir_fd=directory, dst_dir_fd=place)
            return
        try:
            _link(descriptor, place, name)
        except FileExistsError:
            new = _hidden_name()
            _link(descriptor, directory, new)
            os.replace(new, name, src_dir_fd=directory, dst_dir_fd=place)

    with FileIO(descriptor, "r+b") as file:
        try:
            yield file, give_name
        finally:
            if hidden:
                with suppress(FileNotFoundError):
                    os.unlink(hidden, dir_fd=directory)


class UnnamedBlob:
    """A blob being written to a file that gets its name when the blob is complete."""

    def __init__(self, file: FileIO, give_name: GiveName, name_blob: Callable[[str, GiveName], None]) -> None:
        self._file = file
        self._give_name = give_name
        self._name_blob = name_blob

    def write(self, data: memoryview, /) -> int:
        """Write, and return how many bytes were written."""
        return self._file.write(data)

    def commit(self, digest: str, _size: int) -> None:
        """Name the blob after its digest, when it has been written to the disk."""
        os.fdatasync(self._file.fileno())
        self._name_blob(digest, self._give_name)


@contextmanager
def new_blob(folder: int, directory: str, name_blob: Callable[[str, GiveName], None]) -> Iterator[UnnamedBlob]:
    """Start a blob.

    Args:
        folder: the descriptor of a directory on the file system where the blob will be.
        directory: its name in messages.
        name_blob: takes the digest of the complete blob, and names its file.

    Raises:
        ImageError: a file cannot be created there.
    """
    with ExitStack() as stack:
        try:
            file, give_name = stack.enter_context(unnamed_file(folder))
        except OSError as error:
            raise ImageError(f"{quoted(directory)}: {error.strerror}") from error
        yield UnnamedBlob(file, give_name, name_blob)


def _link(descriptor: int, place: int, name: str) -> None:
    """Link an unnamed file to a name. os.link follows the link in /proc only if it also gets a directory descriptor."""
    os.link(f"/proc/self/fd/{descriptor}", name, src_dir_fd=descriptor, dst_dir_fd=place, follow_symlinks=True)


def _hidden_name() -> str:
    return f".new-{os.urandom(8).hex()}"
