"""`oci:DIR[:REF]`: an OCI image layout in a directory (image-spec, image-layout.md)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from typing import TYPE_CHECKING, Any

from decoder import limits
from decoder.errors import ImageError, UsageError, quoted
from decoder.image.files.layoutindex import INDEX, entry_name, find, parse_index, split_place
from decoder.image.files.layouttarget import LayoutTarget
from decoder.image.files.regular import open_regular
from decoder.image.manifest import subject_of
from decoder.layer.digest import split_digest

if TYPE_CHECKING:
    from decoder.image.transport import Descriptor, Options


@contextmanager
def open_source(_name: str, place: str, _options: Options) -> Iterator[LayoutSource]:
    """Open a layout for reading."""
    directory, reference = split_place("oci", "DIR", place)
    yield LayoutSource(directory, reference)


@contextmanager
def open_target(_name: str, place: str, options: Options) -> Iterator[LayoutTarget]:
    """Open a layout for writing; the directory is created if it does not exist."""
    directory, reference = split_place("oci", "DIR", place)
    target = LayoutTarget(directory, reference, _reference_in(directory, options.source))
    try:
        yield target
    finally:
        target.close()


def list_images(place: str, _options: Options) -> list[str] | None:
    """Return the images in a layout by name; None if the place names one, or if an image has no name."""
    directory, reference = split_place("oci", "DIR", place)
    if reference:
        return None
    names = [entry_name(entry) for entry in LayoutSource(directory, "").entries()]
    return [f"{directory}:{name}" for name in dict.fromkeys(names)] if all(names) else None


class LayoutSource:
    """An image in a layout.

    Args:
        directory: the layout's directory.
        reference: the name of the image; "" if there is only one.
    """

    def __init__(self, directory: str, reference: str) -> None:
        self._directory = directory
        self._reference = reference

    def root(self) -> Descriptor:
        """Find the reference in the index.

        Raises:
            ImageError: it is not there, or there are several.
        """
        return find(self._index(), self._reference, self._directory)

    @contextmanager
    def open(self, descriptor: Descriptor) -> Iterator[FileIO]:
        """Open a blob."""
        with _open_file(os.path.join(self._directory, "blobs", *split_digest(descriptor["digest"]))) as file:
            yield file

    def referrers(self, digest: str) -> list[str]:
        """Return the entries of the index whose manifest has this subject, as text (image-spec, manifest.md)."""
        return [
            f"{entry['digest']} ({quoted(entry_name(entry) or entry.get('artifactType') or 'an artifact')})"
            for entry in self._index()["manifests"]
            if subject_of(self, entry) == digest
        ]

    def entries(self) -> list[Descriptor]:
        """Return the entries of the index."""
        found: list[Descriptor] = self._index()["manifests"]
        return found

    def _index(self) -> dict[str, Any]:
        path = os.path.join(self._directory, INDEX)
        if not os.path.lexists(path):
            raise ImageError(f"{quoted(self._directory)} is not an OCI layout: there is no file {quoted(path)}")
        with _open_file(path) as file:
            return parse_index(file.read(limits.LAYOUT_INDEX_BYTES + 1) or b"", path)


def _open_file(path: str) -> FileIO:
    try:
        return open_regular(path, quoted(path))
    except OSError as error:
        raise ImageError(f"{quoted(path)}: {error.strerror}") from error


def _reference_in(directory: str, source: str) -> str | None:
    """Return the reference of an image if it is in this layout, otherwise None."""
    transport, _, place = source.partition(":")
    if transport != "oci":
        return None
    try:
        path, reference = split_place("oci", "DIR", place)
        return reference if os.path.samefile(path, directory) else None
    except (UsageError, OSError):
        return None
