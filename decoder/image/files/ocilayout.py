"""`oci:DIR[:REF]`: an OCI image layout in a directory (image-spec, image-layout.md).

Blobs are written to files without a name, which get one when they are whole; where the file system has no such files,
under a name of our own beside the blobs' directory. The index is replaced last, under a lock, by renaming.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from typing import TYPE_CHECKING, Any

from decoder import limits
from decoder.errors import ImageError, UsageError, quoted
from decoder.formats import wire
from decoder.image.manifest import OCI_INDEX, annotations_of, check_descriptor
from decoder.layer.digest import split_digest

if TYPE_CHECKING:
    from decoder.image.transport import Descriptor, Options

REFERENCE = "org.opencontainers.image.ref.name"
_IMAGE_NAME = "io.containerd.image.name"  # what ctr and nerdctl save, with the registry's name
LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_NO_UNNAMED_FILES = (errno.EOPNOTSUPP, errno.EISDIR)  # open(2); NFS, FUSE, overlayfs of older kernels


@contextmanager
def open_source(_name: str, place: str, _options: Options) -> Iterator[LayoutSource]:
    """Open a layout for reading."""
    directory, reference = split_place("oci", "DIR", place)
    yield LayoutSource(directory, reference)


@contextmanager
def open_target(_name: str, place: str, _options: Options) -> Iterator[LayoutTarget]:
    """Open a layout for writing; the directory is made if it is not there."""
    directory, reference = split_place("oci", "DIR", place)
    target = LayoutTarget(directory, reference)
    try:
        yield target
    finally:
        target.close()


class LayoutSource:
    """An image in a layout.

    Args:
        directory: of the layout.
        reference: names the image; "" if there is but one.
    """

    def __init__(self, directory: str, reference: str) -> None:
        self._directory = directory
        self._reference = reference

    def root(self) -> Descriptor:
        """Find the reference in the index.

        Raises:
            ImageError: it is not there, or there are several.
        """
        path = os.path.join(self._directory, "index.json")
        with self._file(path) as file:
            data = file.read(limits.LAYOUT_INDEX_BYTES + 1)
        return find(parse_index(data or b"", path), self._reference, self._directory)

    @contextmanager
    def open(self, descriptor: Descriptor) -> Iterator[FileIO]:
        """Open a blob."""
        with self._file(blob_path(self._directory, descriptor["digest"])) as file:
            yield file

    def _file(self, path: str) -> FileIO:
        """Open a regular file; anything else could make us wait."""
        try:
            file = FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
        except OSError as error:
            raise ImageError(f"{quoted(path)}: {error.strerror}") from error
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise ImageError(f"{quoted(path)} is not a regular file")
        return file


class LayoutTarget(LayoutSource):
    """A layout to write an image to, beside those that are in it.

    Args:
        directory: made if it is not there.
        reference: names the new image; "" for the one without a name.

    Raises:
        ImageError: it cannot be written to, or has something else in it.
    """

    def __init__(self, directory: str, reference: str) -> None:
        super().__init__(directory, reference)
        try:
            os.makedirs(directory, exist_ok=True)
            self._lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ImageError(f"{quoted(directory)}: {error.strerror}") from error
        try:
            self._prepare()
        except OSError as error:
            self.close()
            raise ImageError(f"{quoted(directory)}: {error.strerror}") from error
        except ImageError:
            self.close()
            raise

    def close(self) -> None:
        """Give up the directory."""
        os.close(self._lock)

    def has(self, descriptor: Descriptor) -> bool:
        """Tell whether a blob of that size is there under its digest."""
        try:
            status = os.stat(blob_path(self._directory, descriptor["digest"]))
        except OSError:
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size == descriptor["size"]

    @contextmanager
    def create(self, _size: int) -> Iterator[LayoutWriter]:
        """Start a blob."""
        with unnamed_file(self._directory) as (file, give_name):
            yield LayoutWriter(self._directory, file, give_name)

    def put_manifest(self, data: bytes, descriptor: Descriptor) -> None:
        """Write a manifest or index."""
        if not self.has(descriptor):
            self._write(data, descriptor["digest"])

    def publish(self, descriptor: Descriptor) -> None:
        """Put the image into the index, in the place of the one that had its name."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX)  # held until the directory is closed
            index = self._index()
            index["manifests"] = [*_others(index["manifests"], self._reference), named(descriptor, self._reference)]
            os.fsync(self._lock)
            self._replace("index.json", _json(index))
            os.fsync(self._lock)
        except OSError as error:
            raise ImageError(f"the index of {quoted(self._directory)}: {error.strerror}") from error

    def _prepare(self) -> None:
        names = set(os.listdir(self._directory))
        if "oci-layout" not in names and any(not name.startswith(".") for name in names):
            raise ImageError(f"{quoted(self._directory)} is neither empty nor an OCI layout")
        if "index.json" in names:
            self._index()
        if "oci-layout" not in names:
            self._replace("oci-layout", LAYOUT)
        os.makedirs(os.path.join(self._directory, "blobs", "sha256"), exist_ok=True)

    def _index(self) -> dict[str, Any]:
        path = os.path.join(self._directory, "index.json")
        if not os.path.lexists(path):
            return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
        with self._file(path) as file:
            return parse_index(file.read(limits.LAYOUT_INDEX_BYTES + 1) or b"", path)

    def _write(self, data: bytes, digest: str) -> None:
        try:
            with self.create(len(data)) as writer:
                rest = memoryview(data)
                while rest:
                    rest = rest[writer.write(rest) :]
                writer.commit(digest, len(data))
        except OSError as error:
            raise ImageError(f"writing {digest}: {error.strerror}") from error

    def _replace(self, name: str, data: bytes) -> None:
        """Replace a file at once; only under the lock may the name of the new one be a fixed one."""
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        new = os.path.join(self._directory, f".{name}.new")
        with open(new, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, os.path.join(self._directory, name))
        fcntl.flock(self._lock, fcntl.LOCK_UN)


class LayoutWriter:
    """A blob being written to a layout."""

    def __init__(self, directory: str, file: FileIO, give_name: Callable[[str], None]) -> None:
        self._directory = directory
        self._file = file
        self._give_name = give_name

    def write(self, data: memoryview, /) -> int:
        """Write, and return how much was taken."""
        return self._file.write(data)

    def commit(self, digest: str, _size: int) -> None:
        """Let the blob have its name, once it is on the disk."""
        path = blob_path(self._directory, digest)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.fdatasync(self._file.fileno())
        self._give_name(path)


@contextmanager
def unnamed_file(directory: str) -> Iterator[tuple[FileIO, Callable[[str], None]]]:
    """Open a file that nobody sees, and that vanishes unless it is given a name.

    Args:
        directory: on the file system where the name will be.

    Yields:
        The file, to write and read; and what names it, in the place of whatever has the name.

    Raises:
        ImageError: it cannot be made.
    """
    hidden = ""
    try:
        try:
            descriptor = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o644)
        except OSError as error:
            if error.errno not in _NO_UNNAMED_FILES:
                raise
            hidden = _hidden_name(directory)
            descriptor = os.open(hidden, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ImageError(f"{quoted(directory)}: {error.strerror}") from error

    def give_name(path: str) -> None:
        if hidden:
            os.replace(hidden, path)
            return
        try:
            _link(descriptor, path)
        except FileExistsError:
            new = _hidden_name(directory)
            _link(descriptor, new)
            os.replace(new, path)

    with FileIO(descriptor, "r+b") as file:
        try:
            yield file, give_name
        finally:
            if hidden:
                with suppress(FileNotFoundError):
                    os.unlink(hidden)


def _link(descriptor: int, path: str) -> None:
    """Name an unnamed file (open(2), O_TMPFILE); os.link follows symbolic links only if it is given a descriptor."""
    os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor, follow_symlinks=True)


def split_place(transport: str, what: str, place: str) -> tuple[str, str]:
    """Split a place from the reference in it, at the first colon, as skopeo does.

    Raises:
        UsageError: there is no place, or nothing after the colon.
    """
    path, colon, reference = place.partition(":")
    if not path or (colon and not reference):
        raise UsageError(f"{transport}:{place} is not of the form {transport}:{what}[:REF]")
    return path, reference


def blob_path(directory: str, digest: object) -> str:
    """Return the path of a blob in a layout; the digest is checked before it becomes one."""
    return os.path.join(directory, "blobs", *split_digest(digest))


def parse_index(data: bytes, name: str) -> dict[str, Any]:
    """Parse `index.json`.

    Raises:
        ImageError: it is malformed, or longer than LAYOUT_INDEX_BYTES.
    """
    if len(data) > limits.LAYOUT_INDEX_BYTES:
        raise ImageError(f"{quoted(name)} is longer than {limits.LAYOUT_INDEX_BYTES} bytes")
    try:
        index = wire.parse_object(data)
    except ValueError as error:
        raise ImageError(f"{quoted(name)}: {error}") from error
    entries = index.get("manifests")
    if not isinstance(entries, list):
        raise ImageError(f"{quoted(name)} has no list of manifests")
    return {**index, "manifests": [check_descriptor(entry) for entry in entries]}


def find(index: dict[str, Any], reference: str, place: str) -> Descriptor:
    """Find the image of a reference, or the only one.

    Raises:
        ImageError: there is none, or more than one.
    """
    entries: list[Descriptor] = index["manifests"]
    names = [annotations_of(entry).get(REFERENCE, "") for entry in entries]
    if reference:
        found = [
            entry
            for entry, name in zip(entries, names, strict=True)
            if reference in (name, annotations_of(entry).get(_IMAGE_NAME))
        ]
    else:
        found = entries
    if len({entry["digest"] for entry in found}) == 1:
        return found[0]
    there = ", ".join(quoted(name) for name in names[: limits.REPORTED_ATTEMPTS]) or "none"
    problem = "several images" if found else "no image"
    wanted = f" {quoted(reference)}" if reference else ""
    raise ImageError(f"{quoted(place)} holds {problem}{wanted}; their names are {there}")


def named(descriptor: Descriptor, reference: str) -> Descriptor:
    """Give a descriptor the name that an index has it under, in the place of the one it came with."""
    kept = {name: text for name, text in annotations_of(descriptor).items() if name not in (REFERENCE, _IMAGE_NAME)}
    annotations = {**kept, **({REFERENCE: reference} if reference else {})}
    rest = {name: value for name, value in descriptor.items() if name != "annotations"}
    return {**rest, **({"annotations": annotations} if annotations else {})}


def _others(entries: list[Descriptor], reference: str) -> list[Descriptor]:
    return [entry for entry in entries if annotations_of(entry).get(REFERENCE, "") != reference]


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _hidden_name(directory: str) -> str:
    return os.path.join(directory, f".new-{os.urandom(8).hex()}")
