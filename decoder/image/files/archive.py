"""`oci-archive:FILE[:REF]`, an OCI layout in a tar archive, and `docker-archive:FILE`, which is only read.

An archive is written to a file without a name, blobs side by side, each in a place of its own; the whole takes the
name in one step, and the place of what had it.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from threading import Lock
from typing import TYPE_CHECKING

from decoder import limits
from decoder.errors import ImageError, UsageError, quoted
from decoder.image.files.ocilayout import LAYOUT, find, named, parse_index, split_place, unnamed_file
from decoder.image.files.tarindex import Place, Section, TarIndex
from decoder.image.manifest import OCI_INDEX
from decoder.layer.digest import split_digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from decoder.image.transport import Descriptor, ImageSource, Options

_DOCKER = "docker-archive"
_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)


def open_source(name: str, place: str, _options: Options) -> AbstractContextManager[ImageSource]:
    """Open an archive for reading."""
    return _open(name, *split_place(name, "FILE", place))


@contextmanager
def open_target(name: str, place: str, _options: Options) -> Iterator[ArchiveTarget]:
    """Open an archive for writing.

    Raises:
        UsageError: it is a Docker archive.
    """
    if name == _DOCKER:
        raise UsageError(f"{_DOCKER}: can only be read; write to oci-archive:")
    path, reference = split_place(name, "FILE", place)
    if os.path.isdir(path):
        raise ImageError(f"{quoted(path)} is a directory")
    with unnamed_file(os.path.dirname(path) or ".") as (file, give_name):
        yield ArchiveTarget(path, reference, file, give_name)


@contextmanager
def _open(name: str, path: str, reference: str) -> Iterator[ImageSource]:
    try:
        file = FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except OSError as error:
        raise ImageError(f"{quoted(path)}: {error.strerror}") from error
    with file:
        index = TarIndex(file, path)
        if name == _DOCKER:
            from decoder.image.files.dockerarchive import DockerArchive

            yield DockerArchive(index, path, reference)
        else:
            yield ArchiveSource(index, path, reference)


class ArchiveSource:
    """An image in an OCI archive."""

    def __init__(self, archive: TarIndex, path: str, reference: str) -> None:
        self._archive = archive
        self._path = path
        self._reference = reference

    def root(self) -> Descriptor:
        """Find the reference in the index.

        Raises:
            ImageError: it is not there, or there are several.
        """
        data = self._archive.read("index.json", limits.LAYOUT_INDEX_BYTES)
        return find(parse_index(data, f"{self._path}: index.json"), self._reference, self._path)

    @contextmanager
    def open(self, descriptor: Descriptor) -> Iterator[Section]:
        """Open a blob."""
        yield self._archive.section(_name(descriptor["digest"]))


class ArchiveTarget:
    """An OCI archive being written."""

    def __init__(self, path: str, reference: str, file: FileIO, give_name: Callable[[str], None]) -> None:
        self._path = path
        self._reference = reference
        self._descriptor = file.fileno()
        self._give_name = give_name
        self._lock = Lock()
        self._end = 0
        self._places: dict[str, Place] = {}

    def has(self, descriptor: Descriptor) -> bool:
        """Tell whether the blob was written already."""
        place = self._places.get(descriptor["digest"])
        return place is not None and place.size == descriptor["size"]

    @contextmanager
    def create(self, size: int) -> Iterator[ArchiveWriter]:
        """Start a blob."""
        yield ArchiveWriter(self, self._descriptor, self._reserve(size))

    @contextmanager
    def open(self, descriptor: Descriptor) -> Iterator[Section]:
        """Open a blob that was written."""
        yield Section(self._descriptor, self._places[descriptor["digest"]])

    def put_manifest(self, data: bytes, descriptor: Descriptor) -> None:
        """Write a manifest or index."""
        if not self.has(descriptor):
            self._put(_name(descriptor["digest"]), data)
            self._places[descriptor["digest"]] = Place(0, len(data))  # nobody reads it back

    def publish(self, descriptor: Descriptor) -> None:
        """Finish the archive, and let it have its name."""
        entries = [named(descriptor, self._reference)]
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        try:
            self._put("index.json", json.dumps(index, separators=(",", ":")).encode())
            self._put("oci-layout", LAYOUT)
            _write_at(self._descriptor, memoryview(_END), self._end)
            os.fsync(self._descriptor)
            self._give_name(self._path)
        except OSError as error:
            raise ImageError(f"{quoted(self._path)}: {error.strerror}") from error

    def commit(self, digest: str, place: Place) -> None:
        """Write the header of a blob, which makes it one.

        Raises:
            OSError: writing failed.
        """
        self._write_header(_name(digest), place)
        with self._lock:
            self._places[digest] = place

    def _put(self, name: str, data: bytes) -> None:
        place = self._reserve(len(data))
        self._write_header(name, place)
        _write_at(self._descriptor, memoryview(data), place.offset)

    def _reserve(self, size: int) -> Place:
        """Set room aside for a header, the content, and what fills the last block up."""
        with self._lock:
            place = Place(self._end + _BLOCK, size)
            self._end = place.offset + -(-size // _BLOCK) * _BLOCK
        return place

    def _write_header(self, name: str, place: Place) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = place.size
        header = entry.tobuf(tarfile.GNU_FORMAT)
        _write_at(self._descriptor, memoryview(header), place.offset - _BLOCK)


class ArchiveWriter:
    """A blob being written to an archive."""

    def __init__(self, target: ArchiveTarget, descriptor: int, place: Place) -> None:
        self._target = target
        self._descriptor = descriptor
        self._place = place
        self._written = 0

    def write(self, data: memoryview, /) -> int:
        """Write, and return how much was taken."""
        if self._written + len(data) > self._place.size:
            raise ImageError(f"a blob is longer than the {self._place.size} bytes it was announced with")
        count = os.pwrite(self._descriptor, data, self._place.offset + self._written)
        self._written += count
        return count

    def commit(self, digest: str, size: int) -> None:
        """Make it part of the archive."""
        if size != self._place.size or self._written != size:
            raise ImageError(f"{digest} has {self._written} bytes, and was announced with {self._place.size}")
        self._target.commit(digest, self._place)


def _name(digest: object) -> str:
    return "/".join(("blobs", *split_digest(digest)))


def _write_at(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count
