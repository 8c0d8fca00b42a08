"""Transports: the interfaces of sources and destinations, and the table that finds them by name."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any, NamedTuple, Protocol, cast

from decoder.errors import UsageError, quoted

COSIGN_TAGS = ("sig", "att", "sbom")  # suffixes of the tags that cosign gives to signatures, attestations and SBOMs
# Transports of skopeo that this program does not have.
_OF_SKOPEO = ("ostree", "sif", "tarball")

Descriptor = dict[str, Any]
"""An OCI descriptor as parsed JSON: `mediaType`, `digest`, `size`, and its other members."""

# The transports by their names in skopeo, each with its module.
TRANSPORTS = {
    "oci": "files.ocilayout",
    "oci-archive": "files.archive",
    "docker-archive": "files.archive",
    "docker": "registry.place",
    "containerd": "containerd.store",
    "dir": "files.directory",
    "docker-daemon": "programs.dockerdaemon",
    "containers-storage": "programs.containersstorage",
}


class BlobReader(Protocol):
    """A blob being read; the caller compares its digest, see `decoder.image.blobs`. Failures are ImageErrors."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Read at most as many bytes as fit, and return how many; 0 at the end."""


class BlobWriter(Protocol):
    """A blob being written; it is invisible before `commit`, and discarded if the context ends without one."""

    def write(self, data: memoryview, /) -> int:
        """Write, and return how many bytes were written.

        Raises:
            ImageError: the blob is longer than announced, or cannot be written.
            OSError: the blob cannot be written.
        """

    def commit(self, digest: str, size: int) -> None:
        """Publish the blob under its digest.

        Args:
            digest: the digest of the whole blob.
            size: the size of the whole blob, in bytes.

        Raises:
            DigestError: the target computed another digest.
            InterruptedWriteError: the blob must be written again.
            ImageError: the blob does not have this size, or cannot be written.
        """


class BlobSource(Protocol):
    """Blobs to read."""

    def open(self, descriptor: Descriptor) -> AbstractContextManager[BlobReader]:
        """Open a blob for reading. May be called from several threads.

        Raises:
            ImageError: the blob does not exist, or cannot be opened.
        """


class ImageSource(BlobSource, Protocol):
    """An image to read."""

    def root(self) -> Descriptor:
        """Return the descriptor of the manifest or index that the reference names.

        Raises:
            ImageError: the reference names no image, or more than one.
        """

    def referrers(self, digest: str) -> list[str]:
        """Return the names of artifacts outside the image that refer to a manifest (OCI 1.1 `subject`, cosign)."""


class ImageTarget(Protocol):
    """A place to write an image to."""

    def has(self, descriptor: Descriptor) -> bool:
        """Check whether the whole blob exists already (a registry may mount it from another repository)."""

    def create(self, size: int) -> AbstractContextManager[BlobWriter]:
        """Start a blob of `size` bytes. May be called from several threads."""

    def open(self, descriptor: Descriptor) -> AbstractContextManager[BlobReader]:
        """Open a committed blob to read it back, before the image is published. May be called from several threads.

        Raises:
            ImageError: the blob does not exist, or cannot be opened.
        """

    def put_manifest(self, data: bytes, descriptor: Descriptor) -> None:
        """Write a manifest or index, after everything that it refers to.

        Raises:
            ImageError: it cannot be written.
        """

    def publish(self, descriptor: Descriptor) -> None:
        """Point the reference at a manifest or index. This is the last step; it succeeds completely or not at all.

        Raises:
            ImageError: the reference cannot be changed.
        """

    def forget(self, layers: list[str], manifests: list[str]) -> list[str]:
        """Delete plain blobs, after `publish`, if the image was encrypted in place and nothing else refers to them.

        Args:
            layers: the digests of the plain layers that were encrypted.
            manifests: the digests of the manifests and indexes that referred to them.

        Returns:
            A line about each plain blob that cannot be deleted.
        """


class Options(NamedTuple):
    """The settings for transports, besides the reference.

    Attributes:
        tls_verify: whether registries must use TLS with a valid certificate.
        namespace: containerd's namespace.
        address: the path of containerd's socket.
        source: for a target, the place that the image comes from, `TRANSPORT:PLACE`. It may be the same place, or one
            that has some of the blobs already.
        login: user and password for registries, or ("", "") to use stored logins.
        authfile: the file with stored logins, or "" for the usual files.
    """

    tls_verify: bool = True
    namespace: str = "default"
    address: str = "/run/containerd/containerd.sock"
    source: str = ""
    login: tuple[str, str] = ("", "")
    authfile: str = ""


def open_source(reference: str, options: Options) -> AbstractContextManager[ImageSource]:
    """Open an image for reading: `TRANSPORT:PLACE`.

    Raises:
        UsageError: the transport is unknown or the reference malformed.
        ImageError: there is no such image.
    """
    module, name, place = _split(reference)
    return cast("AbstractContextManager[ImageSource]", module.open_source(name, place, options))


def open_target(reference: str, options: Options) -> AbstractContextManager[ImageTarget]:
    """Open a place for writing: `TRANSPORT:PLACE`.

    Raises:
        UsageError: the transport is unknown or only for reading, or the reference is malformed.
        ImageError: it cannot be written to.
    """
    module, name, place = _split(reference, is_target=True)
    return cast("AbstractContextManager[ImageTarget]", module.open_target(name, place, options))


def list_images(place: str, options: Options) -> list[str]:
    """Return the images at a place: all tags of a repository, or all names in a layout.

    Returns:
        `TRANSPORT:PLACE` of each image; only the place itself if it names an image or cannot be listed.
    """
    module, name, rest = _split(place)
    found: list[str] | None = module.list_images(rest, options) if hasattr(module, "list_images") else None
    return [place] if found is None else [f"{name}:{each}" for each in found]


def _split(reference: str, is_target: bool = False) -> tuple[Any, str, str]:
    name, separator, place = reference.partition(":")
    if not separator or name not in TRANSPORTS:
        hint = _hint(reference, name, is_target)
        raise UsageError(f"{quoted(reference)} names no transport; the transports are {', '.join(TRANSPORTS)}; {hint}")
    return import_module(f"decoder.image.{TRANSPORTS[name]}"), name, place


def _hint(reference: str, name: str, is_target: bool) -> str:
    """Return advice about an unknown transport: the nearest name, or the skopeo command that copies the image."""
    from difflib import get_close_matches

    if name not in _OF_SKOPEO and (nearest := get_close_matches(name, TRANSPORTS, 1)):
        return f"did you mean {nearest[0]}:?"
    shown = quoted(reference) if name in _OF_SKOPEO else "TRANSPORT:PLACE"
    if is_target:
        return f"for another one, write to oci:DIR:TAG, then run `skopeo copy oci:DIR:TAG {shown}`"
    return f"for another one, run `skopeo copy {shown} oci:DIR:TAG`, then use oci:DIR:TAG"
