"""`oci-archive:FILE[:REF]`, an OCI layout in a tar file, and `docker-archive:FILE[:NAME]`, the form of `docker save`.

An archive is written to an unnamed file, in which parallel blobs have separate ranges. The finished file gets its name
in one step, and replaces an older file. If the destination is a pipe, the archive is copied to it at the end.
"""

from __future__ import annotations

import json
import os
import stat
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from tempfile import TemporaryFile
from threading import Lock
from typing import TYPE_CHECKING, Any

from decoder import limits
from decoder.errors import ImageError, UsageError, quoted
from decoder.formats.mediatypes import OCI_INDEX
from decoder.image.files.layoutindex import INDEX, LAYOUT, find, has_name, named, parse_index, split_place
from decoder.image.files.spool import STANDARD, open_archive
from decoder.image.files.tarindex import Place, Section, TarIndex
from decoder.image.files.unnamed import unnamed_file
from decoder.image.manifest import is_encrypted
from decoder.layer.digest import split_digest
from decoder.layer.stream import write_all

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import FileIO

    from decoder.image.transport import Descriptor, ImageSource, Options

_DOCKER = "docker-archive"
_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)


@contextmanager
def open_source(name: str, place: str, _options: Options) -> Iterator[ImageSource]:
    """Open an archive for reading, from a file, a pipe or standard input (`-`), plain or gzip."""
    path, reference = split_place(name, "FILE", place)
    with open_archive(path) as file:
        index = TarIndex(file, path)
        if name == _DOCKER:
            from decoder.image.files.dockerarchive import DockerArchive

            yield DockerArchive(index, path, reference)
        else:
            yield ArchiveSource(index, path, reference)


@contextmanager
def open_target(name: str, place: str, options: Options) -> Iterator[ArchiveTarget]:
    """Open an archive for writing: a file, a pipe or standard output (`-`).

    Raises:
        ImageError: the archive cannot be written.
        UsageError: the source is in the same file, with other images that would be lost.
    """
    path, reference = split_place(name, "FILE", place)
    former = _image_in(path, options.source) if name != _DOCKER else None
    if former and reference and not has_name(former, reference):
        former = None
    with ExitStack() as stack:
        try:
            file, finish = _open_output(stack, path)
        except OSError as error:
            raise ImageError(f"{quoted(path)}: {error.strerror}") from error
        if name == _DOCKER:
            yield DockerArchiveTarget(path, reference, file, finish)
        else:
            yield ArchiveTarget(path, reference, file, finish, former)


def _image_in(path: str, source: str) -> Descriptor | None:
    """Return the index entry of an image if it is the only one in this archive; None if it is in another place.

    Raises:
        UsageError: the archive has other images, too.
    """
    transport, _, place = source.partition(":")
    if transport != "oci-archive":
        return None
    try:
        other, reference = split_place(transport, "FILE", place)
        if not stat.S_ISREG(os.stat(path).st_mode) or not os.path.samefile(path, other):
            return None
    except OSError:
        return None
    with open_archive(path) as file:
        data = TarIndex(file, path).read(INDEX, limits.LAYOUT_INDEX_BYTES)
    index = parse_index(data, f"{path}: {INDEX}")
    found = find(index, reference, path)
    if any(entry["digest"] != found["digest"] for entry in index["manifests"]):
        raise UsageError(
            f"{quoted(path)} holds other images, which would be lost, because an archive is written as a whole; name "
            "another file as the destination"
        )
    return found


def _open_output(stack: ExitStack, path: str) -> tuple[FileIO, Callable[[], None]]:
    """Return a file for the archive, and a function that moves or copies it to its destination."""
    if os.path.isdir(path):
        raise ImageError(f"{quoted(path)} is a directory")
    if path in (STANDARD, "/dev/stdout") or _is_stream(path):
        spool: Any = stack.enter_context(TemporaryFile(buffering=0))  # noqa: SIM115 - the stack closes it
        return spool, lambda: _deliver(spool, 1 if path in (STANDARD, "/dev/stdout") else path)
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, folder)
    file, give_name = stack.enter_context(unnamed_file(folder))
    return file, lambda: give_name(folder, os.path.basename(path))


def _is_stream(path: str) -> bool:
    """Check whether a path is not a file but, for example, a named pipe, which is written to and not replaced."""
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def _deliver(spool: FileIO, output: int | str) -> None:
    """Copy a finished archive to a pipe."""
    spool.seek(0)
    with open(output, "wb", buffering=0, closefd=isinstance(output, str)) as stream:
        while block := spool.read(limits.IMAGE_BUFFER_BYTES):
            write_all(stream, block)


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
        data = self._archive.read(INDEX, limits.LAYOUT_INDEX_BYTES)
        return find(parse_index(data, f"{self._path}: {INDEX}"), self._reference, self._path)

    @contextmanager
    def open(self, descriptor: Descriptor) -> Iterator[Section]:
        """Open a blob."""
        yield self._archive.section(_name(descriptor["digest"]))

    def referrers(self, _digest: str) -> list[str]:
        """Return nothing: archives have no signatures."""
        return []


class ArchiveTarget:
    """An OCI archive being written.

    Args:
        path: the archive's name in messages.
        reference: the name of the image in the index, or "".
        file: the file to write the archive to.
        finish: moves or copies the complete file to its destination.
        former: the image's entry in the archive that is replaced, whose names are kept; or None.
    """

    def __init__(
        self, path: str, reference: str, file: FileIO, finish: Callable[[], None], former: Descriptor | None = None
    ) -> None:
        self._former = former
        self._path = path
        self._reference = reference
        self._descriptor = file.fileno()
        self._finish = finish
        self._lock = Lock()
        self._end = 0
        self._places: dict[str, Place] = {}

    def has(self, descriptor: Descriptor) -> bool:
        """Check whether the blob was written already."""
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
        """Finish the archive, and publish it under its name.

        Raises:
            ImageError: the archive cannot be written.
        """
        entries = [named(descriptor, self._reference, self._former)]
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        try:
            self._put_json(INDEX, index)
            self._put("oci-layout", LAYOUT)
            _write_at(self._descriptor, memoryview(_END), self._end)
            os.fsync(self._descriptor)
            self._finish()
        except OSError as error:
            raise ImageError(f"{quoted(self._path)}: {error.strerror}") from error

    def forget(self, _layers: list[str], _manifests: list[str]) -> list[str]:
        """Return nothing: the archive was replaced as a whole."""
        return []

    def commit(self, digest: str, place: Place) -> None:
        """Write the header of a blob, which adds it to the archive.

        Raises:
            OSError: writing failed.
        """
        self._write_header(_name(digest), place)
        with self._lock:
            self._places[digest] = place

    def _put_json(self, name: str, value: object) -> None:
        self._put(name, json.dumps(value, separators=(",", ":")).encode())

    def _put(self, name: str, data: bytes) -> None:
        place = self._reserve(len(data))
        self._write_header(name, place)
        _write_at(self._descriptor, memoryview(data), place.offset)

    def _reserve(self, size: int) -> Place:
        """Reserve space for a header, the content and the padding of the last block."""
        with self._lock:
            place = Place(self._end + _BLOCK, size)
            self._end = place.offset + -(-size // _BLOCK) * _BLOCK
        return place

    def _write_header(self, name: str, place: Place) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = place.size
        header = entry.tobuf(tarfile.GNU_FORMAT)
        _write_at(self._descriptor, memoryview(header), place.offset - _BLOCK)


class DockerArchiveTarget(ArchiveTarget):
    """An archive for `docker load`: an OCI layout with a `manifest.json`, as newer versions of docker save it."""

    def __init__(self, path: str, reference: str, file: FileIO, finish: Callable[[], None]) -> None:
        super().__init__(path, "", file, finish)
        self._name = reference
        self._manifests: dict[str, dict[str, Any]] = {}

    def put_manifest(self, data: bytes, descriptor: Descriptor) -> None:
        """Write a manifest or index."""
        self._manifests[descriptor["digest"]] = json.loads(data)
        super().put_manifest(data, descriptor)

    def publish(self, descriptor: Descriptor) -> None:
        """Finish the archive.

        Raises:
            UsageError: the image is for several platforms, or has an encrypted layer.
        """
        images = [value for value in self._manifests.values() if _is_docker_image(value)]
        if len(images) != 1:
            raise UsageError(
                f"{_DOCKER}: can hold only one platform, but the image has {len(images)}: use oci-archive:"
            )
        (image,) = images
        if any(is_encrypted(each["mediaType"]) for each in image["layers"]):
            raise UsageError(
                f"{_DOCKER}: cannot hold encrypted layers, because it has no annotations: use oci-archive:"
            )
        entry = {
            "Config": _name(image["config"]["digest"]),
            "RepoTags": [self._name if ":" in self._name else f"{self._name}:latest"] if self._name else None,
            "Layers": [_name(each["digest"]) for each in image["layers"]],
        }
        self._put_json("manifest.json", [entry])
        super().publish(descriptor)


class ArchiveWriter:
    """A blob being written to an archive."""

    def __init__(self, target: ArchiveTarget, descriptor: int, place: Place) -> None:
        self._target = target
        self._descriptor = descriptor
        self._place = place
        self._written = 0

    def write(self, data: memoryview, /) -> int:
        """Write, and return how many bytes were written.

        Raises:
            ImageError: the blob is longer than announced.
            OSError: writing failed.
        """
        if self._written + len(data) > self._place.size:
            raise ImageError(f"a blob is longer than its {self._place.size} bytes")
        count = os.pwrite(self._descriptor, data, self._place.offset + self._written)
        self._written += count
        return count

    def commit(self, digest: str, size: int) -> None:
        """Add the blob to the archive.

        Raises:
            ImageError: the blob does not have this size.
            OSError: writing failed.
        """
        if size != self._place.size or self._written != size:
            raise ImageError(f"{digest} has {self._written} bytes instead of {self._place.size}")
        self._target.commit(digest, self._place)


def _is_docker_image(manifest: dict[str, Any]) -> bool:
    config = manifest.get("config") or {}
    is_image = str(config.get("mediaType", "")).endswith(("image.config.v1+json", "image.v1+json"))
    return is_image and not any("in-toto" in each["mediaType"] for each in manifest["layers"])


def _name(digest: object) -> str:
    return "/".join(("blobs", *split_digest(digest)))


def _write_at(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count
