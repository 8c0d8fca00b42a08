"""Writing an OCI image layout. Blobs get their names when they are complete; the index is replaced last, under a lock.

The directory may be shared with others, so a symbolic link in it is never followed.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from typing import TYPE_CHECKING, Any

from decoder import limits
from decoder.errors import ImageError, quoted
from decoder.formats.mediatypes import OCI_INDEX
from decoder.image.files.layoutindex import (
    INDEX,
    LAYOUT,
    LAYOUT_FILE,
    entry_name,
    find,
    has_name,
    named,
    parse_index,
)
from decoder.image.files.references import References
from decoder.image.files.regular import open_regular
from decoder.image.files.unnamed import new_blob, unnamed_file
from decoder.layer.digest import split_digest
from decoder.layer.stream import write_all

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from decoder.image.files.unnamed import GiveName, UnnamedBlob
    from decoder.image.transport import Descriptor

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class LayoutTarget:
    """A layout being written.

    Args:
        directory: the layout's directory; it is created if it does not exist.
        reference: the name of the image in the index, or "".
        replaced: the reference of the source image if it is in the same layout; otherwise None.

    Raises:
        ImageError: the directory cannot be written, or has other content.
    """

    def __init__(self, directory: str, reference: str, replaced: str | None = None) -> None:
        self._directory = directory
        self._reference = reference
        self._replaced = replaced
        self._former: list[Descriptor] = []
        self._folders: dict[str, int] = {}
        try:
            os.makedirs(directory, exist_ok=True)
            self._root = os.open(directory, _FOLDER)
        except OSError as error:
            raise self._failure(error) from error
        try:
            self._prepare()
        except OSError as error:
            self.close()
            raise self._failure(error) from error
        except ImageError:
            self.close()
            raise

    def close(self) -> None:
        """Close the directory, which ends the lock."""
        for descriptor in (*self._folders.values(), self._root):
            os.close(descriptor)

    def has(self, descriptor: Descriptor) -> bool:
        """Check whether the layout has a blob of that digest and size."""
        algorithm, digits = split_digest(descriptor["digest"])
        try:
            status = os.stat(digits, dir_fd=self._folder(algorithm), follow_symlinks=False)
        except OSError:
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size == descriptor["size"]

    def create(self, _size: int) -> AbstractContextManager[UnnamedBlob]:
        """Start a blob."""
        return new_blob(self._root, self._directory, self.name_blob)

    @contextmanager
    def open(self, descriptor: Descriptor) -> Iterator[FileIO]:
        """Open a blob, whether it was written now or earlier.

        Raises:
            ImageError: the layout has no such blob, or it cannot be read.
        """
        algorithm, digits = split_digest(descriptor["digest"])
        try:
            file = self._open(digits, self._folder(algorithm))
        except OSError as error:
            raise ImageError(f"{descriptor['digest']} in {quoted(self._directory)}: {error.strerror}") from error
        with file:
            yield file

    def put_manifest(self, data: bytes, descriptor: Descriptor) -> None:
        """Write a manifest or index.

        Raises:
            ImageError: it cannot be written.
        """
        if self.has(descriptor):
            return
        try:
            with self.create(len(data)) as writer:
                write_all(writer, data)
                writer.commit(descriptor["digest"], len(data))
        except OSError as error:
            raise ImageError(f"writing {descriptor['digest']}: {error.strerror}") from error

    def publish(self, descriptor: Descriptor) -> None:
        """Add the image to the index, and remove an older image with that name.

        Raises:
            ImageError: the index is malformed, or cannot be written.
        """
        try:
            fcntl.flock(self._root, fcntl.LOCK_EX)  # held until the directory is closed
            index = self._index()
            name = self._reference
            if not name and self._replaced is not None:
                name = entry_name(find(index, self._replaced, self._directory))
            entries = index["manifests"]
            self._former = [entry for entry in entries if has_name(entry, name)]
            kept = [entry for entry in entries if entry not in self._former]
            index["manifests"] = [*kept, named(descriptor, name, next(iter(self._former), None))]
            os.fsync(self._root)
            self._replace(INDEX, json.dumps(index, separators=(",", ":")).encode())
            os.fsync(self._root)
        except OSError as error:
            raise ImageError(f"the index of {quoted(self._directory)}: {error.strerror}") from error

    def forget(self, layers: list[str], manifests: list[str]) -> list[str]:
        """Delete the blobs of the plain image in this layout, unless another image in it refers to them.

        The plain image is one that was encrypted in place, or one that had the name before. Other blobs are never
        deleted, because another program may still be writing their image.

        Args:
            layers: the digests of the plain layers.
            manifests: the digests of the manifests and indexes that referred to them.

        Returns:
            A line for each plain layer that stays.
        """
        if self._replaced is None and not self._former:
            return []
        try:
            if self._replaced is None:
                before = References(self, self._former)
                layers, manifests = ([each for each in digests if each in before] for digests in (layers, manifests))
            kept = References(self, self._index()["manifests"])
        except ImageError as error:
            return [f"the plain blobs were not deleted, because another image in the layout cannot be read: {error}"]
        for digest in (*layers, *manifests):
            if digest not in kept:
                self._delete(digest)
        stay = [digest for digest in layers if digest in kept]
        return [f"the plain layer {digest} stays: {kept.name_of(digest)} in the layout refers to it" for digest in stay]

    def name_blob(self, digest: str, give_name: GiveName) -> None:
        """Rename a blob to its digest.

        Raises:
            OSError: it cannot be written.
        """
        algorithm, digits = split_digest(digest)
        give_name(self._folder(algorithm), digits)

    def _prepare(self) -> None:
        names = set(os.listdir(self._root))
        if LAYOUT_FILE not in names and any(not name.startswith(".") for name in names):
            raise ImageError(f"{quoted(self._directory)} is neither empty nor an OCI layout")
        if INDEX in names:
            self._index()
        if LAYOUT_FILE not in names:
            fcntl.flock(self._root, fcntl.LOCK_EX)
            self._replace(LAYOUT_FILE, LAYOUT)
            fcntl.flock(self._root, fcntl.LOCK_UN)
        self._folder("sha256")

    def _folder(self, algorithm: str) -> int:
        """Open the directory of an algorithm's blobs, which is created if it does not exist."""
        if algorithm not in self._folders:
            blobs = _opened_folder("blobs", self._root)
            try:
                self._folders[algorithm] = _opened_folder(algorithm, blobs)
            finally:
                os.close(blobs)
        return self._folders[algorithm]

    def _index(self) -> dict[str, Any]:
        try:
            file = self._open(INDEX, self._root)
        except FileNotFoundError:
            return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
        except OSError as error:
            raise ImageError(f"{INDEX} in {quoted(self._directory)}: {error.strerror}") from error
        with file:
            path = os.path.join(self._directory, INDEX)
            return parse_index(file.read(limits.LAYOUT_INDEX_BYTES + 1) or b"", path)

    def _open(self, name: str, folder: int) -> FileIO:
        """Open a regular file; others could block, or lead elsewhere."""
        return open_regular(name, f"{quoted(name)} in {quoted(self._directory)}", folder)

    def _replace(self, name: str, data: bytes) -> None:
        """Replace a file in one step; the caller has the lock."""
        with unnamed_file(self._root) as (file, give_name):
            file.write(data)
            os.fsync(file.fileno())
            give_name(self._root, name)

    def _delete(self, digest: str) -> None:
        algorithm, digits = split_digest(digest)
        try:
            os.unlink(digits, dir_fd=self._folder(algorithm))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise ImageError(f"the plain blob {digest} cannot be deleted: {error.strerror}") from error

    def _failure(self, error: OSError) -> ImageError:
        return ImageError(f"{quoted(self._directory)}: {error.strerror}")


def _opened_folder(name: str, parent: int) -> int:
    with suppress(FileExistsError):
        os.mkdir(name, dir_fd=parent)
    return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)
