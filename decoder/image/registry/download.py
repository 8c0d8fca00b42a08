"""Downloads of blobs from a registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decoder import limits
from decoder.errors import DigestError
from decoder.registry.hosts import UnreachableError
from decoder.registry.queries import blob_path, is_manifest

if TYPE_CHECKING:
    from decoder.errors import ImageError
    from decoder.image.transport import Descriptor
    from decoder.registry.client import RegistryClient


class Download:
    """A download of a blob or manifest; if the connection is lost, it is resumed.

    Args:
        client: the client of the repository.
        descriptor: the digest and size of the blob.

    Raises:
        ImageError: the blob does not exist, or the registry fails.
    """

    def __init__(self, client: RegistryClient, descriptor: Descriptor) -> None:
        self._client = client
        self._url = client.url(blob_path(descriptor))
        self._headers = {"Accept": descriptor["mediaType"]} if is_manifest(descriptor) else {}
        self._at = 0
        self._resumptions = 0
        self._response = client.send("GET", self._url, self._headers)
        if failure := self._failure(descriptor):
            self.close()
            raise failure

    def readinto(self, buffer: memoryview, /) -> int:
        """Read at most as many bytes as fit, and return how many; 0 at the end."""
        while True:
            try:
                count = self._response.readinto(buffer)
            except UnreachableError as error:
                self._resume(error)
                continue
            self._at += count
            return count

    def close(self) -> None:
        """Return the connection to the pool."""
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
