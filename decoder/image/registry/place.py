"""Images in a registry, `docker://HOST[:PORT]/REPOSITORY[:TAG|@DIGEST]` (OCI distribution-spec 1.1)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from decoder import limits
from decoder.errors import ImageError
from decoder.image.registry.download import Download
from decoder.image.registry.upload import Upload
from decoder.image.transport import COSIGN_TAGS
from decoder.registry.client import RegistryClient
from decoder.registry.login import Login, Logins
from decoder.registry.queries import compare, exists, get_manifest, has_tag, is_manifest, listed, tags
from decoder.registry.reference import Reference, parse_reference

if TYPE_CHECKING:
    from decoder.image.transport import BlobReader, BlobWriter, Descriptor, ImageSource, ImageTarget, Options


@contextmanager
def open_source(name: str, place: str, options: Options) -> Iterator[ImageSource]:
    """Open an image of a registry for reading.

    Args:
        name: the transport's name.
        place: `//HOST[:PORT]/REPOSITORY[:TAG|@DIGEST]`.
        options: the settings for registries.

    Raises:
        UsageError: the reference is malformed.
        ImageError: the registry cannot be used.
    """
    del name
    reference = parse_reference(place)
    with _client(reference, options, [f"repository:{reference.name}:pull"]) as client:
        yield _Source(client)


@contextmanager
def open_target(name: str, place: str, options: Options) -> Iterator[ImageTarget]:
    """Open a repository for writing an image to it.

    Args:
        name: the transport's name.
        place: `//HOST[:PORT]/REPOSITORY[:TAG|@DIGEST]`.
        options: the settings for registries, and the source of the image.

    Raises:
        UsageError: the reference is malformed.
        ImageError: the registry cannot be used.
    """
    reference = parse_reference(place)
    other = _mountable(reference, options.source)
    scopes = [f"repository:{reference.name}:pull,push", *([f"repository:{other}:pull"] if other else [])]
    with _client(reference, options, scopes) as client:
        yield _Target(client, other, options.source == f"{name}:{place}")


def list_images(place: str, options: Options) -> list[str] | None:
    """List the tags of a repository; None if the place has a tag or digest.

    Raises:
        ImageError: there is no such repository, or the registry does not list tags.
    """
    reference = parse_reference(place)
    if reference.digest or place.endswith(f":{reference.tag}"):
        return None
    with _client(reference, options, [f"repository:{reference.name}:pull"]) as client:
        return [f"{place}:{tag}" for tag in tags(client)]


def _client(reference: Reference, options: Options, scopes: list[str]) -> RegistryClient:
    logins = Logins(options.authfile, Login(*options.login) if options.login[0] else None)
    return RegistryClient(reference, options.tls_verify, scopes, logins)


def _mountable(reference: Reference, origin: str) -> str:
    """Return the source's repository if it is another one of the same registry, whose blobs can be mounted; or ""."""
    transport, _, place = origin.partition(":")
    if transport != "docker":
        return ""
    source = parse_reference(place)  # it was opened before
    return source.name if source.host == reference.host and source.name != reference.name else ""


class _Blobs:
    """Blobs of a repository, to read."""

    def __init__(self, client: RegistryClient) -> None:
        self._client = client
        self._reference = client.reference

    def open(self, descriptor: Descriptor) -> AbstractContextManager[BlobReader]:
        return closing(Download(self._client, descriptor))


class _Source(_Blobs):
    def root(self) -> Descriptor:
        return get_manifest(self._client, self._reference.version)[1]

    def referrers(self, digest: str) -> list[str]:
        """Return artifacts that refer to a manifest, from the referrers API or its fallback tag and cosign's tags."""
        fallback = digest.replace(":", "-")
        found = listed(self._client, f"referrers/{digest}") or listed(self._client, f"manifests/{fallback}")
        names = [f"{fallback}.{end}" for end in COSIGN_TAGS]
        return [*found, *(f"the tag {tag}" for tag in names if has_tag(self._client, tag))]


class _Target(_Blobs):
    def __init__(self, client: RegistryClient, other: str, in_place: bool) -> None:
        super().__init__(client)
        self._other = other
        self._in_place = in_place

    def forget(self, layers: list[str], manifests: list[str]) -> list[str]:
        """Return a line about the plain image, which a registry keeps under its digest."""
        if not layers or not self._in_place:
            return []
        where = f"{self._reference.host}/{self._reference.name}@{manifests[0]}"
        return [f"the plain image can still be pulled as {where}: delete it in the registry, and collect its garbage"]

    def has(self, descriptor: Descriptor) -> bool:
        return exists(self._client, descriptor) or self._is_mounted(descriptor)

    def create(self, size: int) -> AbstractContextManager[BlobWriter]:
        return Upload(self._client, size)

    def put_manifest(self, data: bytes, descriptor: Descriptor) -> None:
        self._put(data, descriptor, descriptor["digest"])

    def publish(self, descriptor: Descriptor) -> None:
        """Point the tag at the image; see `ImageTarget`."""
        digest = descriptor["digest"]
        if self._reference.digest:
            if self._reference.digest != digest:
                raise ImageError(f"{self._reference}: the new image has another digest, {digest}: use a tag")
            return
        data, _ = get_manifest(self._client, digest)
        self._put(data, descriptor, self._reference.tag)

    def _put(self, data: bytes, descriptor: Descriptor, version: str) -> None:
        url = self._client.url(f"manifests/{version}")
        headers = {"Content-Type": descriptor["mediaType"]}
        with self._client.send("PUT", url, headers, data, limits.REGISTRY_COMMIT_SECONDS) as response:
            if response.status not in (200, 201):
                raise self._client.failure(response, f"it does not accept the manifest {version}")
            compare(response, descriptor["digest"])

    def _is_mounted(self, descriptor: Descriptor) -> bool:
        if not self._other or is_manifest(descriptor):
            return False
        wish = urlencode({"mount": descriptor["digest"], "from": self._other}, safe=":/")
        url = self._client.url(f"blobs/uploads/?{wish}")
        with self._client.send("POST", url) as response:
            if response.status == 202:  # it did not mount the blob, but began an upload
                self._client.drop(self._client.location(response, url))
            return response.status == 201
