"""Images in a registry, `docker://HOST[:PORT]/REPOSITORY[:TAG|@DIGEST]`, by OCI's distribution-spec 1.1.

A blob goes up in one streamed PATCH, which every registry takes, and gets its digest with the PUT that ends it. What
broke off on its way up must be made again, so that raises an InterruptedWriteError; on its way down it is resumed.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from decoder import limits
from decoder.errors import ImageError, UsageError, quoted
from decoder.image.errors import DigestError, InterruptedWriteError
from decoder.layer.digest import RunningDigest, split_digest
from decoder.registry.client import RegistryClient
from decoder.registry.hosts import UnreachableError
from decoder.registry.reference import Reference, parse_reference
from decoder.registry.retries import is_busy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from decoder.image.transport import BlobReader, BlobWriter, Descriptor, ImageSource, ImageTarget, Options
    from decoder.registry.http import Response

_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_DIGEST_HEADER = "Docker-Content-Digest"


@contextmanager
def open_source(name: str, place: str, options: Options) -> Iterator[ImageSource]:
    """Open an image of a registry for reading.

    Args:
        name: of the transport.
        place: `//HOST[:PORT]/REPOSITORY[:TAG|@DIGEST]`.
        options: whether TLS is verified.

    Raises:
        UsageError: the reference is malformed.
        ImageError: there is no such registry.
    """
    del name
    reference = parse_reference(place)
    with RegistryClient(reference, options.tls_verify, [f"repository:{reference.name}:pull"]) as client:
        yield _Source(client)


@contextmanager
def open_target(name: str, place: str, options: Options) -> Iterator[ImageTarget]:
    """Open a repository for writing an image to it.

    Args:
        name: of the transport.
        place: `//HOST[:PORT]/REPOSITORY[:TAG|@DIGEST]`.
        options: whether TLS is verified, and where the image comes from.

    Raises:
        UsageError: the reference is malformed.
        ImageError: there is no such registry.
    """
    del name
    reference = parse_reference(place)
    other = _mountable(reference, options.mount_from)
    scopes = [f"repository:{reference.name}:pull,push", *([f"repository:{other}:pull"] if other else [])]
    with RegistryClient(reference, options.tls_verify, scopes) as client:
        yield _Target(client, other)


def _mountable(reference: Reference, origin: str) -> str:
    """Return the repository of the same registry that the image comes from, "" if there is none."""
    transport, _, place = origin.partition(":")
    if transport != "docker":
        return ""
    try:
        source = parse_reference(place)
    except UsageError:
        return ""
    return source.name if source.host == reference.host and source.name != reference.name else ""


class _Blobs:
    """What can be read from a repository."""

    def __init__(self, client: RegistryClient) -> None:
        self._client = client
        self._reference = client.reference

    def open(self, descriptor: Descriptor) -> AbstractContextManager[BlobReader]:
        return closing(_Download(self._client, descriptor))


class _Source(_Blobs):
    def root(self) -> Descriptor:
        return _get_manifest(self._client, self._reference.version)[1]


class _Target(_Blobs):
    def __init__(self, client: RegistryClient, other: str) -> None:
        super().__init__(client)
        self._other = other

    def has(self, descriptor: Descriptor) -> bool:
        return _exists(self._client, descriptor) or self._is_mounted(descriptor)

    def create(self, size: int) -> AbstractContextManager[BlobWriter]:
        return _Upload(self._client, size)

    def put_manifest(self, data: bytes, descriptor: Descriptor) -> None:
        self._put(data, descriptor, descriptor["digest"])

    def publish(self, descriptor: Descriptor) -> None:
        """Give the tag to what the registry has of it by now."""
        digest = descriptor["digest"]
        if self._reference.digest:
            if self._reference.digest != digest:
                raise ImageError(f"{self._reference}: what was written has the digest {digest}, so no such name")
            return
        data, _ = _get_manifest(self._client, digest)
        self._put(data, descriptor, self._reference.tag)

    def _put(self, data: bytes, descriptor: Descriptor, version: str) -> None:
        url = self._client.url(f"manifests/{version}")
        headers = {"Content-Type": descriptor["mediaType"]}
        with self._client.send("PUT", url, headers, data, limits.REGISTRY_COMMIT_SECONDS) as response:
            if response.status not in (200, 201):
                raise self._client.failure(response, f"it does not take the manifest {version}")
            _compare(response, descriptor["digest"])

    def _is_mounted(self, descriptor: Descriptor) -> bool:
        if not self._other or _is_manifest(descriptor):
            return False
        wish = urlencode({"mount": descriptor["digest"], "from": self._other}, safe=":/")
        url = self._client.url(f"blobs/uploads/?{wish}")
        with self._client.send("POST", url) as response:
            if response.status == 202:  # it wants the bytes
                self._client.drop(self._client.location(response, url))
            return response.status == 201


class _Download:
    """A blob or manifest on its way down; after the connection was lost, from where it got to."""

    def __init__(self, client: RegistryClient, descriptor: Descriptor) -> None:
        self._client = client
        self._url = client.url(_path(descriptor))
        self._headers = {"Accept": descriptor["mediaType"]} if _is_manifest(descriptor) else {}
        self._at = 0
        self._resumptions = 0
        self._response = client.send("GET", self._url, self._headers)
        if failure := self._failure(descriptor):
            self.close()
            raise failure

    def readinto(self, buffer: memoryview, /) -> int:
        """Read at most as much as fits; 0 at the end."""
        while True:
            try:
                count = self._response.readinto(buffer)
            except UnreachableError as error:
                self._resume(error)
                continue
            self._at += count
            return count

    def close(self) -> None:
        """Give the connection back."""
        self._response.close()

    def _failure(self, descriptor: Descriptor) -> ImageError | None:
        if self._response.status != 200:
            return self._client.failure(self._response, f"there is no {descriptor['digest']}")
        if self._response.length not in (None, descriptor["size"]):
            return DigestError(f"{self._client.reference}: {descriptor['digest']} has another size there")
        return None

    def _resume(self, error: UnreachableError) -> None:
        self._resumptions += 1
        if self._resumptions >= limits.REGISTRY_ATTEMPTS:
            raise error
        self.close()
        self._response = self._client.send("GET", self._url, {**self._headers, "Range": f"bytes={self._at}-"})
        is_rest = self._response.headers.get("Content-Range", "").startswith(f"bytes {self._at}-")
        if not (self._response.status == 206 and is_rest) and not (self._response.status == 200 and self._at == 0):
            raise error


class _Upload:
    """A blob on its way up."""

    def __init__(self, client: RegistryClient, size: int) -> None:
        self._client = client
        self._size = size
        self._left = size
        self._is_sent = False
        self._is_committed = False

    def __enter__(self) -> _Upload:
        url = self._client.url("blobs/uploads/")
        with self._client.send("POST", url) as response:
            if response.status != 202:
                raise self._client.failure(response, "it takes no blobs")
            self._location = self._client.location(response, url)
        headers = {"Content-Type": "application/octet-stream"}
        try:
            self._sending = self._client.begin("PATCH", self._location, headers, self._size)
        except UnreachableError as error:
            raise InterruptedWriteError(str(error)) from error
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_committed:
            with suppress(ImageError):
                if not self._left and not self._is_sent:
                    self._finish(limits.REGISTRY_CONNECT_SECONDS)
            self._client.drop(self._location)
        self._sending.close()

    def write(self, data: memoryview, /) -> int:
        """Send all of it."""
        self._left -= len(data)
        if self._left < 0:
            raise ImageError(f"{self._client.reference}: a blob is longer than the {self._size} bytes it was to have")
        try:
            self._sending.send(data)
        except UnreachableError as error:
            raise self._refused(error) from error
        return len(data)

    def commit(self, digest: str, size: int) -> None:
        """End the upload, which the registry does only if it got what has this digest."""
        if self._left or size != self._size:
            raise ImageError(f"{self._client.reference}: a blob is shorter than the {self._size} bytes it was to have")
        try:
            self._finish(limits.REGISTRY_COMMIT_SECONDS)
        except UnreachableError as error:
            raise InterruptedWriteError(str(error)) from error
        url = f"{self._location}{'&' if '?' in self._location else '?'}digest={quote(digest, safe=':')}"
        with self._client.send("PUT", url, seconds=limits.REGISTRY_COMMIT_SECONDS) as response:
            self._check_committed(response, digest)
        self._is_committed = True

    def _finish(self, seconds: float) -> None:
        """Hear that all was received, and where its end is to be told, or that it is to be forgotten."""
        self._is_sent = True
        with self._sending.finish(seconds) as response:
            self._check_sent(response)
            self._location = self._client.location(response, self._location)

    def _check_sent(self, response: Response) -> None:
        if response.status not in (201, 202, 204):
            failure = self._client.failure(response, "it did not take a blob to its end")
            raise InterruptedWriteError(str(failure)) if is_busy(response) else failure

    def _check_committed(self, response: Response, digest: str) -> None:
        if response.status in (201, 204):
            _compare(response, digest)
            return
        failure = self._client.failure(response, f"it does not take {digest}")
        if response.status == 400:
            raise DigestError(str(failure))
        if response.status != 404:
            raise failure
        # It knows of no such upload: because the first PUT was heard, and only its reply lost?
        if not _exists(self._client, {"mediaType": "", "digest": digest, "size": self._size}):
            raise InterruptedWriteError(str(failure))

    def _refused(self, error: UnreachableError) -> ImageError:
        """Find out why the connection ended, if the registry said so first."""
        try:
            self._finish(limits.REGISTRY_CONNECT_SECONDS)
        except InterruptedWriteError as interruption:
            return interruption
        except UnreachableError:
            pass
        except ImageError as failure:
            return failure
        return InterruptedWriteError(str(error))


def _exists(client: RegistryClient, descriptor: Descriptor) -> bool:
    url = client.url(_path(descriptor))
    headers = {"Accept": descriptor["mediaType"]} if _is_manifest(descriptor) else {}
    with client.send("HEAD", url, headers) as response:
        if response.status in (401, 403):
            raise client.failure(response, "it tells nothing about blobs")
        return response.status == 200 and response.headers.get("Content-Length") in (None, str(descriptor["size"]))


def _get_manifest(client: RegistryClient, version: str) -> tuple[bytes, Descriptor]:
    """Get a manifest or an index by its tag or digest."""
    url = client.url(f"manifests/{version}")
    with client.send("GET", url, {"Accept": ", ".join(_MANIFESTS)}) as response:
        if response.status != 200:
            raise client.failure(response, f"there is no {version}")
        data = response.read(limits.MANIFEST_BYTES)
        media_type = _media_type(data) or response.headers.get("Content-Type", "").partition(";")[0].strip()
        said = version if ":" in version else response.headers.get(_DIGEST_HEADER, "")
    digest = _digest(data, said)
    if said and digest != said:
        raise DigestError(f"{client.reference}: the manifest is damaged: its digest is another")
    if media_type not in _MANIFESTS:
        raise ImageError(f"{client.reference} is no image: its media type is {quoted(media_type)}")
    return data, {"mediaType": media_type, "digest": digest, "size": len(data)}


def _media_type(data: bytes) -> str:
    """Take the media type that a manifest gives itself, for it is what the digest is about."""
    try:
        value = json.loads(data)["mediaType"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
    return value if isinstance(value, str) else ""


def _digest(data: bytes, like: str) -> str:
    """Compute a digest, with the algorithm of another, SHA-256 if that is ""."""
    digest = RunningDigest(split_digest(like)[0]) if like else RunningDigest()
    digest.update(memoryview(data))
    return digest.digest()


def _compare(response: Response, digest: str) -> None:
    said = response.headers.get(_DIGEST_HEADER, digest)
    if said != digest and said.partition(":")[0] == digest.partition(":")[0]:
        raise DigestError(f"{response.host} got something else than {digest}: {quoted(said)}")


def _is_manifest(descriptor: Descriptor) -> bool:
    return descriptor["mediaType"] in _MANIFESTS


def _path(descriptor: Descriptor) -> str:
    split_digest(descriptor["digest"])
    return f"{'manifests' if _is_manifest(descriptor) else 'blobs'}/{descriptor['digest']}"
