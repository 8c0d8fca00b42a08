"""The files in a tar archive, and their positions. Nothing is unpacked, so no file is created under a name in it."""

from __future__ import annotations

import os
import posixpath
import tarfile
from io import FileIO
from typing import NamedTuple

from decoder import limits
from decoder.errors import ImageError, quoted


class Place(NamedTuple):
    """The position of a file's content in the archive, in bytes."""

    offset: int
    size: int


class Section:
    """A part of an open file, read from start to end; other parts can be read at the same time."""

    def __init__(self, descriptor: int, place: Place) -> None:
        self._descriptor = descriptor
        self._at = place.offset
        self._left = place.size

    def readinto(self, buffer: memoryview, /) -> int:
        """Read into the buffer, and return how many bytes were read; 0 at the end."""
        count = os.preadv(self._descriptor, [buffer[: self._left]], self._at) if self._left else 0
        self._at += count
        self._left -= count
        return count


class TarIndex:
    """The regular files and links of an archive, by name; the last of several files with the same name counts.

    Args:
        file: the archive, a regular file.
        path: its name in messages.

    Raises:
        ImageError: it is not a tar archive, damaged or cut short, has too many entries, or names that lead
            out of it.
    """

    def __init__(self, file: FileIO, path: str) -> None:
        self._path = path
        self._descriptor = file.fileno()
        self._places: dict[str, Place] = {}
        self._links: dict[str, str] = {}
        try:
            with tarfile.open(fileobj=_Bounded(file), mode="r:") as archive:  # type: ignore[call-overload]
                self._add_all(archive)
        except (tarfile.TarError, ValueError, EOFError) as error:
            raise ImageError(f"{quoted(path)} is not a tar archive, or it is damaged or cut short ({error})") from error
        except OSError as error:
            raise ImageError(f"{quoted(path)}: {error.strerror or error}") from error

    def section(self, name: str) -> Section:
        """Open a file in the archive.

        Raises:
            ImageError: the archive has no such file.
        """
        return Section(self._descriptor, self.place(name))

    def place(self, name: str) -> Place:
        """Find a file in the archive.

        Raises:
            ImageError: the archive has no such file.
        """
        place = self._places.get(self._resolve(name))
        if place is None:
            raise ImageError(f"{quoted(self._path)} has no file {quoted(name)}")
        return place

    def read(self, name: str, most: int) -> bytes:
        """Read a small file in the archive.

        Args:
            name: its name, normalized.
            most: the largest size to accept, in bytes.

        Raises:
            ImageError: the archive has no such file, or the file is larger.
        """
        place = self.place(name)
        if place.size > most:
            raise ImageError(f"{quoted(name)} in {quoted(self._path)} is longer than {most} bytes")
        return os.pread(self._descriptor, place.size, place.offset)

    def _add_all(self, archive: tarfile.TarFile) -> None:
        count = 0
        while (entry := archive.next()) is not None:
            count += 1
            if count > limits.ARCHIVE_ENTRIES:
                raise ImageError(f"{quoted(self._path)} has more than {limits.ARCHIVE_ENTRIES} entries")
            archive.members = []  # type: ignore[attr-defined]  # tarfile would keep every entry in memory
            name = self._checked(entry.name)
            if entry.isreg() and not entry.issparse():
                self._places[name] = Place(entry.offset_data, entry.size)
                self._links.pop(name, None)
            elif entry.issym():
                self._links[name] = self._checked(posixpath.join(posixpath.dirname(entry.name), entry.linkname))
            elif entry.islnk():
                self._links[name] = self._checked(entry.linkname)

    def _checked(self, name: str) -> str:
        normal = posixpath.normpath(name)
        if normal.startswith(("/", "../")) or normal == "..":
            raise ImageError(f"{quoted(self._path)} has an entry that leads out of it: {quoted(name)}")
        return normal

    def _resolve(self, name: str) -> str:
        for _ in range(limits.ARCHIVE_LINKS):
            if name not in self._links:
                return name
            name = self._links[name]
        raise ImageError(f"{quoted(self._path)} has links that lead too far: {quoted(name)}")


class _Bounded:
    """A file that bounds each read to the size of a legitimate header, because extended headers are read as a whole."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        if size > limits.ARCHIVE_HEADER_BYTES:
            raise ImageError(f"it has a header that is longer than {limits.ARCHIVE_HEADER_BYTES} bytes")
        return self._file.read(size) or b""
