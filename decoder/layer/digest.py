"""Digests of blobs: how they are written, and computed beside the caller's own work."""

from __future__ import annotations

import hashlib
import os
import re

from decoder import limits
from decoder.errors import ImageError, quoted
from decoder.layer.authenticator import Worker, new_buffer

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


def split_digest(digest: object) -> tuple[str, str]:
    """Split a digest into algorithm and hexadecimal digits, fit for a file name (image-spec, descriptor.md).

    Raises:
        ImageError: it is neither SHA-256 nor SHA-512 in lower-case digits.
    """
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise ImageError(f"{quoted(digest)} is no digest that is accepted (sha256, sha512)")
    algorithm, _, digits = digest.partition(":")
    return algorithm, digits


def digest_of(data: bytes) -> str:
    """Compute the SHA-256 digest of bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class RunningDigest:
    """The digest of blocks.

    Once THREAD_AFTER_BYTES have been seen, a second thread digests copies while the caller goes on (OpenSSL lets go of
    the GIL). A copy costs a tenth of a digest, and nobody waits at every block: the cores stay busy.

    Args:
        algorithm: `sha256` or `sha512`.
    """

    def __init__(self, algorithm: str = "sha256") -> None:
        self._algorithm = algorithm
        self._hash = hashlib.new(algorithm)
        self._bytes_seen = 0
        self._worker: Worker | None = None

    def __enter__(self) -> RunningDigest:
        return self

    def __exit__(self, *_: object) -> None:
        if self._worker:
            self._worker.join()

    def update(self, block: memoryview) -> None:
        """Take a block, which may change afterwards."""
        if self._worker:
            self._lend(self._worker, block)
            return
        self._hash.update(block)
        self._bytes_seen += len(block)
        if self._bytes_seen >= limits.THREAD_AFTER_BYTES and len(os.sched_getaffinity(0)) > 1:
            self._worker = Worker(self._hash.update, new_buffer(limits.IMAGE_BUFFER_BYTES))

    def digest(self) -> str:
        """Return the digest of everything, algorithm first; no block may follow."""
        if self._worker:
            self._worker.join()
        return f"{self._algorithm}:{self._hash.hexdigest()}"

    @staticmethod
    def _lend(worker: Worker, block: memoryview) -> None:
        """Copy a block into free buffers, as soon as there are any."""
        while block:
            buffer = worker.free.get()
            length = min(len(block), len(buffer))
            buffer[:length] = block[:length]
            worker.blocks.put(buffer[:length])
            block = block[length:]
