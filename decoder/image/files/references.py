"""The blobs that the entries of an image layout's index refer to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from decoder import limits
from decoder.errors import ImageError, quoted
from decoder.formats import wire
from decoder.image.blobs import read_whole
from decoder.image.files.layoutindex import entry_name
from decoder.image.manifest import check_descriptor

if TYPE_CHECKING:
    from decoder.image.transport import BlobSource, Descriptor

    class Blobs(BlobSource, Protocol):
        """A store of blobs."""

        def has(self, descriptor: Descriptor) -> bool:
            """Check whether the blob exists."""


_MEMBERS = ("manifests", "layers", "blobs")


class References:
    """The digests of everything that is reachable from the entries of an index.

    Args:
        blobs: the store with the manifests.
        entries: the entries of the index.

    Raises:
        ImageError: a manifest is absent or malformed, or there are too many, so that the references are unknown.
    """

    def __init__(self, blobs: Blobs, entries: list[Descriptor]) -> None:
        self._blobs = blobs
        self._names: dict[str, str] = {}
        self._bytes = 0
        for number, entry in enumerate(entries):
            self._follow(entry, entry_name(entry) or f"entry {number}", 0)

    def __contains__(self, digest: str) -> bool:
        return digest in self._names

    def name_of(self, digest: str) -> str:
        """Return the name of an entry that refers to a digest, quoted."""
        return quoted(self._names[digest])

    def _follow(self, descriptor: Descriptor, name: str, depth: int) -> None:
        digest = descriptor["digest"]
        if digest in self._names:
            return
        self._names[digest] = name
        if not _is_manifest(descriptor["mediaType"]):
            return
        self._bytes += descriptor["size"]
        if depth > limits.IMAGE_INDEX_DEPTH or self._bytes > limits.IMAGE_MANIFESTS_BYTES:
            raise ImageError("too many manifests, or nested too deep")
        try:
            value = wire.parse_object(read_whole(self._blobs, descriptor, limits.MANIFEST_BYTES))
        except ValueError as error:
            raise ImageError(f"{digest}: {error}") from error
        named = [value.get("config"), value.get("subject")]
        for member in _MEMBERS:
            entries = value.get(member)
            named += entries if isinstance(entries, list) else []
        for entry in named:
            if entry is not None:
                self._follow_present(check_descriptor(entry), name, depth + 1)

    def _follow_present(self, descriptor: Descriptor, name: str, depth: int) -> None:
        """Follow a descriptor; manifests of an index may be missing (image-spec, image-index.md)."""
        if _is_manifest(descriptor["mediaType"]) and not self._blobs.has(descriptor):
            self._names.setdefault(descriptor["digest"], name)
        else:
            self._follow(descriptor, name, depth)


def _is_manifest(media_type: str) -> bool:
    return ".manifest." in media_type or ".index." in media_type
