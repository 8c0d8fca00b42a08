"""`dir:DIR`: an image in a plain directory, as skopeo writes it: `manifest.json`, and blobs named by their digits."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from typing import TYPE_CHECKING

from decoder import limits
from decoder.errors import ImageError, UsageError, quoted
from decoder.formats.mediatypes import OCI_INDEX, OCI_MANIFEST
from decoder.image.files.regular import open_regular
from decoder.image.files.unnamed import new_blob, unnamed_file
from decoder.image.manifest import is_manifest_type
from decoder.layer.digest import digest_of, split_digest
from decoder.layer.stream import write_all

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from decoder.image.files.unnamed import GiveName, UnnamedBlob
    from decoder.image.transport import Descriptor, Options

_MANIFEST, _VERSION_FILE = "manifest.json", "version"
_VERSION = b"Directory Transport Version: 1.1\n"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_OWN = re.compile(r"(sha512-)?[0-9a-f]{64,128}(\.manifest\.json)?")


@contextmanager
def open_source(_name: str, place: str, _options: Options) -> Iterator[DirectorySource]:
    """Open a directory for reading.

    Raises:
        UsageError: no directory is named.
        ImageError: there is no such directory.
    """
    with _opened(place) as folder:
        yield DirectorySource(place, folder)


@contextmanager
def open_target(_name: str, place: str, _options: Options) -> Iterator[DirectoryTarget]:
    """Open a directory for writing; it is created if it does not exist.

    Raises:
        UsageError: no directory is named.
        ImageError: it cannot be written, or has other content.
    """
    with suppress(OSError):
        os.makedirs(place, exist_ok=True)
    with _opened(place) as folder:
        names = set(os.listdir(folder))
        if names and _VERSION_FILE not in names:
            raise ImageError(f"{quoted(place)} is neither empty nor a directory that skopeo wrote")
        yield DirectoryTarget(place, folder)


@contextmanager
def _opened(place: str) -> Iterator[int]:
    if not place:
        raise UsageError("dir: is not of the form dir:DIR")
    try:
        folder = os.open(place, _FOLDER)
    except OSError as error:
        raise ImageError(f"{quoted(place)}: {error.strerror}") from error
    try:
        yield folder
    finally:
        os.close(folder)


class _Files:
    """The files of a directory; links among them are not followed."""

    def __init__(self, directory: str, folder: int) -> None:
        self._directory = directory
        self._folder = folder

    def open(self, descriptor: Descriptor) -> FileIO:
        """Open a blob or manifest."""
        if not is_manifest_type(descriptor["mediaType"]):
            return self._open(_blob_name(descriptor["digest"]))
        try:
            return self._open(_manifest_name(descriptor["digest"]))
        except ImageError:
            return self._open(_MANIFEST)  # the root; its reader compares the digest

    def _open(self, name: str) -> FileIO:
        shown = f"{quoted(name)} in {quoted(self._directory)}"
        try:
            return open_regular(name, shown, self._folder)
        except OSError as error:
            raise ImageError(f"{shown}: {error.strerror}") from error


class DirectorySource(_Files):
    """An image in a directory."""

    def root(self) -> Descriptor:
        """Return the descriptor of `manifest.json`; its media type is in the file, or follows from its members.

        Raises:
            ImageError: it is absent, too long or not JSON.
        """
        with self._open(_MANIFEST) as file:
            data = file.read(limits.MANIFEST_BYTES + 1) or b""
        if len(data) > limits.MANIFEST_BYTES:
            raise ImageError(f"{_MANIFEST} in {quoted(self._directory)} is longer than {limits.MANIFEST_BYTES} bytes")
        try:
            value = json.loads(data)
            media_type = value.get("mediaType") or (OCI_INDEX if "manifests" in value else OCI_MANIFEST)
        except (ValueError, AttributeError, RecursionError) as error:
            raise ImageError(f"{_MANIFEST} in {quoted(self._directory)} is not a JSON object") from error
        return {"mediaType": str(media_type), "digest": digest_of(data), "size": len(data)}

    def referrers(self, _digest: str) -> list[str]:
        """Return nothing: the directory has only one image."""
        return []


class DirectoryTarget(_Files):
    """A directory being written; blobs and manifests of the earlier image are deleted at the end."""

    def __init__(self, directory: str, folder: int) -> None:
        super().__init__(directory, folder)
        self._manifests: dict[str, bytes] = {}
        self._written: set[str] = set()

    def has(self, descriptor: Descriptor) -> bool:
        """Check whether the directory has a blob of that digest and size."""
        name = _blob_name(descriptor["digest"])
        self._written.add(name)
        try:
            status = os.stat(name, dir_fd=self._folder, follow_symlinks=False)
        except OSError:
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size == descriptor["size"]

    def create(self, _size: int) -> AbstractContextManager[UnnamedBlob]:
        """Start a blob."""
        return new_blob(self._folder, self._directory, lambda digest, name: self.name_blob(_blob_name(digest), name))

    def put_manifest(self, data: bytes, descriptor: Descriptor) -> None:
        """Keep a manifest or index until `publish` names the root."""
        self._manifests[descriptor["digest"]] = data

    def publish(self, descriptor: Descriptor) -> None:
        """Write the manifests, the root last, and delete files that do not belong to this image."""
        root = self._manifests.pop(descriptor["digest"])
        for digest, data in self._manifests.items():
            self._write(_manifest_name(digest), data)
        self._write(_VERSION_FILE, _VERSION)
        self._write(_MANIFEST, root)
        for name in os.listdir(self._folder):
            if _OWN.fullmatch(name) and name not in self._written:
                os.unlink(name, dir_fd=self._folder)

    def forget(self, _layers: list[str], _manifests: list[str]) -> list[str]:
        """Return nothing: `publish` has deleted the plain blobs."""
        return []

    def name_blob(self, name: str, give_name: GiveName) -> None:
        """Rename a blob to its digest.

        Raises:
            OSError: it cannot be written.
        """
        give_name(self._folder, name)
        self._written.add(name)

    def _write(self, name: str, data: bytes) -> None:
        try:
            with unnamed_file(self._folder) as (file, give_name):
                write_all(file, data)
                os.fsync(file.fileno())
                self.name_blob(name, give_name)
        except OSError as error:
            raise ImageError(f"{quoted(name)} in {quoted(self._directory)}: {error.strerror}") from error


def _blob_name(digest: str) -> str:
    algorithm, digits = split_digest(digest)
    return digits if algorithm == "sha256" else f"{algorithm}-{digits}"


def _manifest_name(digest: str) -> str:
    return f"{_blob_name(digest)}.manifest.json"
