"""Archives that come from a pipe or are compressed. They are copied to a file, because blobs are read in any order."""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from tempfile import TemporaryFile
from typing import IO, Protocol

from decoder import limits
from decoder.errors import ImageError, quoted
from decoder.image.files.room import check_room
from decoder.layer.stream import write_all

STANDARD = "-"
_COMPRESSED = {b"\x28\xb5": "zstd", b"BZ": "bzip2", b"\xfd7": "xz"}
_GZIP = b"\x1f\x8b"
_GZIP_WINDOW = 31  # zlib's number for gzip with the largest window


class Readable(Protocol):
    """A stream, such as an HTTP reply."""

    def read(self, size: int, /) -> bytes | None:
        """Read at most a number of bytes; return b"" at the end."""


@contextmanager
def open_archive(path: str) -> Iterator[FileIO]:
    """Open an archive as a regular file that is not compressed.

    Args:
        path: the archive; `-` for standard input.

    Raises:
        ImageError: it cannot be read, or is compressed other than with gzip.
    """
    name = "standard input" if path == STANDARD else path
    try:
        descriptor = 0 if path == STANDARD else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with FileIO(descriptor, "rb", closefd=path != STANDARD) as file:
            mode = os.fstat(descriptor).st_mode
            is_regular = stat.S_ISREG(mode)
            if not (is_regular or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
                raise ImageError(f"{quoted(name)} is neither a regular file nor a pipe")
            if is_regular and os.pread(descriptor, 2, 0) != _GZIP:
                _refuse_compressed(os.pread(descriptor, 2, 0), name)
                yield file
                return
            if is_regular:
                file.seek(0)
            with spooled(file, name) as copy:
                yield copy
    except OSError as error:
        raise ImageError(f"{quoted(name)}: {error.strerror or error}") from error


@contextmanager
def spooled(stream: Readable, name: str) -> Iterator[FileIO]:
    """Copy a stream, which may be gzip, to an unlinked temporary file.

    Args:
        stream: the stream, which is read to its end.
        name: the stream's name in messages.

    Raises:
        ImageError: it is damaged, compressed other than with gzip, or needs more room than there is.
        OSError: reading or writing failed.
    """
    with TemporaryFile(buffering=0) as file:
        assert isinstance(file, FileIO)  # noqa: S101 - for the type checker: it has no buffer
        _copy(stream, file, name)
        file.seek(0)
        yield file


def _copy(stream: Readable, file: IO[bytes], name: str) -> None:
    block = _read(stream)
    _refuse_compressed(block[:2], name)

    def write(data: bytes) -> None:
        check_room(file.fileno(), len(data), quoted(name))
        write_all(file, data)

    unpack = zlib.decompressobj(_GZIP_WINDOW) if block.startswith(_GZIP) else None
    is_begun = False  # whether a member of the gzip file has begun and not ended (RFC 1952 §2.2)
    while block:
        try:
            while block and unpack:
                is_begun = True
                write(unpack.decompress(block, limits.IMAGE_BUFFER_BYTES))
                block = unpack.unconsumed_tail
                if unpack.eof:
                    block = unpack.unused_data.lstrip(b"\0")
                    unpack, is_begun = zlib.decompressobj(_GZIP_WINDOW), False
        except zlib.error as error:
            raise ImageError(f"{quoted(name)} is damaged: {error}") from error
        write(block)
        block = _read(stream)
    if unpack and is_begun:
        raise ImageError(f"{quoted(name)} is cut short")


def _read(stream: Readable) -> bytes:
    """Read at least two bytes, which show the compression; return b"" at the end."""
    data = stream.read(limits.IMAGE_BUFFER_BYTES) or b""
    while len(data) == 1 and (more := stream.read(1)):
        data += more
    return data


def _refuse_compressed(head: bytes, name: str) -> None:
    if head in _COMPRESSED:
        raise ImageError(f"{quoted(name)} is compressed ({_COMPRESSED[head]}): decompress it first")
