"""Digests of blobs: how they are written, and computed beside the caller's own work."""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING

from decoder import limits
from decoder.errors import quoted
from decoder.image.transport import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from queue import SimpleQueue

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
    """The digest of blocks that `update` borrows and `wait` gives back.

    Once THREAD_AFTER_BYTES have been seen, a second thread works while the caller does something else
    (OpenSSL lets go of the GIL).

    Args:
        algorithm: `sha256` or `sha512`.
    """

    def __init__(self, algorithm: str = "sha256") -> None:
        self._algorithm = algorithm
        self._hash = hashlib.new(algorithm)
        self._bytes_seen = 0
        self._blocks: SimpleQueue[memoryview | None] | None = None
        self._done: SimpleQueue[None] | None = None
        self._is_busy = False

    def __enter__(self) -> RunningDigest:
        return self

    def __exit__(self, *_: object) -> None:
        if self._blocks:
            self._blocks.put(None)

    def update(self, block: memoryview) -> None:
        """Take a block, which must not change before `wait` returned; the one before has been waited for."""
        if self._blocks:
            self._is_busy = True
            self._blocks.put(block)
            return
        self._hash.update(block)
        self._bytes_seen += len(block)
        if self._bytes_seen >= limits.THREAD_AFTER_BYTES and len(os.sched_getaffinity(0)) > 1:
            self._start()

    def wait(self) -> None:
        """Wait until the last block has been digested."""
        if self._is_busy and self._done:
            self._done.get()
            self._is_busy = False

    def digest(self) -> str:
        """Return the digest of everything so far, algorithm first."""
        self.wait()
        return f"{self._algorithm}:{self._hash.hexdigest()}"

    def _start(self) -> None:
        from queue import SimpleQueue
        from threading import Thread

        self._blocks, self._done = SimpleQueue(), SimpleQueue()
        Thread(target=_work, args=(self._hash.update, self._blocks, self._done), daemon=True).start()


def _work(
    update: Callable[[memoryview], object], blocks: SimpleQueue[memoryview | None], done: SimpleQueue[None]
) -> None:
    while (block := blocks.get()) is not None:
        update(block)
        done.put(None)
