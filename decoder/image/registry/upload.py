"""Uploads of blobs to a registry.

A blob is sent in one streamed PATCH, which every registry accepts, and gets its digest with the PUT that ends it. If
the upload is interrupted, the blob must be written again, so an InterruptedWriteError is raised.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import quote

from decoder import limits
from decoder.errors import DigestError, ImageError
from decoder.image.errors import InterruptedWriteError
from decoder.registry.hosts import UnreachableError
from decoder.registry.queries import compare, exists
from decoder.registry.retries import is_busy

if TYPE_CHECKING:
    from decoder.registry.client import RegistryClient
    from decoder.registry.http import Response


class Upload:
    """An upload of a blob."""

    def __init__(self, client: RegistryClient, size: int) -> None:
        self._client = client
        self._size = size
        self._left = size
        self._is_sent = False
        self._is_committed = False

    def __enter__(self) -> Upload:
        url = self._client.url("blobs/uploads/")
        with self._client.send("POST", url) as response:
            if response.status != 202:
                raise self._client.failure(response, "it does not accept blobs")
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
        """Send all bytes; return their number. Errors are those of `BlobWriter`: ImageError, InterruptedWriteError."""
        self._left -= len(data)
        if self._left < 0:
            raise ImageError(f"{self._client.reference}: a blob is longer than its {self._size} bytes")
        try:
            self._sending.send(data)
        except UnreachableError as error:
            raise self._refused(error) from error
        return len(data)

    def commit(self, digest: str, size: int) -> None:
        """Finish the upload; the registry accepts it only if the blob has this digest.

        Raises:
            DigestError: the registry received bytes with another digest.
            InterruptedWriteError: the blob must be written again.
            ImageError: the blob is shorter than announced, or the registry does not accept it.
        """
        if self._left or size != self._size:
            raise ImageError(f"{self._client.reference}: a blob is shorter than its {self._size} bytes")
        try:
            self._finish(limits.REGISTRY_COMMIT_SECONDS)
        except UnreachableError as error:
            raise InterruptedWriteError(str(error)) from error
        url = f"{self._location}{'&' if '?' in self._location else '?'}digest={quote(digest, safe=':')}"
        with self._client.send("PUT", url, seconds=limits.REGISTRY_COMMIT_SECONDS) as response:
            self._check_committed(response, digest)
        self._is_committed = True

    def _finish(self, seconds: float) -> None:
        """Receive the reply to the PATCH, which has the URL for the PUT or for cancelling the upload."""
        self._is_sent = True
        with self._sending.finish(seconds) as response:
            self._check_sent(response)
            self._location = self._client.location(response, self._location)

    def _check_sent(self, response: Response) -> None:
        if response.status not in (201, 202, 204):
            failure = self._client.failure(response, "it did not accept the whole blob")
            raise InterruptedWriteError(str(failure)) if is_busy(response) else failure

    def _check_committed(self, response: Response, digest: str) -> None:
        if response.status in (201, 204):
            compare(response, digest)
            return
        failure = self._client.failure(response, f"it does not accept {digest}")
        if response.status == 400:
            raise DigestError(str(failure))
        if response.status != 404:
            raise failure
        # The upload is unknown there: perhaps the first PUT succeeded, and only its reply was lost.
        if not exists(self._client, {"mediaType": "", "digest": digest, "size": self._size}):
            raise InterruptedWriteError(str(failure))

    def _refused(self, error: UnreachableError) -> ImageError:
        """Return the error for a lost connection: the registry's reason, if it sent one before."""
        try:
            self._finish(limits.REGISTRY_CONNECT_SECONDS)
        except InterruptedWriteError as interruption:
            return interruption
        except UnreachableError:
            pass
        except ImageError as failure:
            return failure
        return InterruptedWriteError(str(error))
