"""HMAC-SHA256 and digests over blocks, in a second thread if the layer is large enough to benefit."""

from __future__ import annotations

import os
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.hmac import HMAC

from decoder import limits
from decoder.errors import LayerError

if TYPE_CHECKING:
    from collections.abc import Callable
    from queue import SimpleQueue
    from threading import Thread
    from types import TracebackType
    from typing import Self

HMAC_DIFFERS = "the layer is damaged or not authentic: its HMAC differs"


def new_buffer(size: int) -> memoryview:
    """Return a buffer of `size` bytes. Its memory is allocated only where it is written, unlike a bytearray's."""
    return memoryview(mmap(-1, size, MAP_PRIVATE | MAP_ANONYMOUS))


class Beside:
    """Process blocks in parallel with the caller, which works on the same blocks meanwhile.

    A block is part of a buffer that `free_buffer` returned, and must not change before that buffer is
    returned again. The first blocks are processed immediately; after THREAD_AFTER_BYTES a second thread
    takes over (OpenSSL releases the GIL while it digests).

    Args:
        work: takes each block.
        buffer_bytes: the size of every buffer, in bytes.
        first_bytes: how much of a buffer to use until LARGE_AFTER_BYTES have been processed; None for all. Large
            buffers cause fewer context switches; small ones let the processes in a pipeline start earlier.
    """

    def __init__(self, work: Callable[[memoryview], object], buffer_bytes: int, first_bytes: int | None = None) -> None:
        self._work = work
        self._buffer = new_buffer(buffer_bytes)
        self._first_bytes = first_bytes
        self._bytes_seen = 0
        self._worker: Worker | None = None
        self._may_start = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.join()

    def free_buffer(self) -> memoryview:
        """Wait until a buffer is no longer in use, and return it to be filled."""
        buffer = self._worker.free.get() if self._worker else self._buffer
        return buffer if self._bytes_seen >= limits.LARGE_AFTER_BYTES else buffer[: self._first_bytes]

    def update(self, block: memoryview) -> None:
        """Process a block, which is the front part of the buffer that `free_buffer` returned last."""
        self._bytes_seen += len(block)
        if self._worker:
            self._worker.blocks.put(block)
            return
        self._work(block)
        if self._bytes_seen >= limits.THREAD_AFTER_BYTES and self._may_start and len(os.sched_getaffinity(0)) > 1:
            self._may_start = False
            self._worker = _start(self._work, self._buffer)

    def join(self) -> None:
        """Wait until every block is processed. A second call does nothing."""
        if self._worker:
            self._worker.join()


class Authenticator(Beside):
    """HMAC-SHA256 over blocks.

    Args:
        key: the 32-byte HMAC key.
        buffer_bytes: as for `Beside`.
        first_bytes: as for `Beside`.
        also: takes each block too, such as the digest of a blob.
    """

    def __init__(
        self,
        key: bytes,
        buffer_bytes: int,
        first_bytes: int | None = None,
        also: Callable[[memoryview], object] | None = None,
    ) -> None:
        self._hmac = HMAC(key, hashes.SHA256())
        self._also = also
        super().__init__(self._take if also else self._hmac.update, buffer_bytes, first_bytes)

    def _take(self, block: memoryview) -> None:
        self._hmac.update(block)
        if self._also:
            self._also(block)

    def verify(self, expected: bytes) -> None:
        """Compare the HMAC with the expected 32 bytes in constant time.

        Raises:
            LayerError: they differ. The message never holds the computed value.
        """
        if not self.fits(expected):
            raise LayerError(HMAC_DIFFERS)

    def fits(self, expected: bytes) -> bool:
        """Check whether the HMAC is the expected one of 32 bytes, in constant time."""
        self.join()
        return _fits(self._hmac, expected)

    def finish(self) -> bytes:
        """Return the 32-byte HMAC."""
        self.join()
        return self._hmac.finalize()


class OtherHmac:
    """A second HMAC-SHA256 over the blocks of an Authenticator, with another 32-byte key."""

    def __init__(self, key: bytes) -> None:
        self._hmac = HMAC(key, hashes.SHA256())
        self.update = self._hmac.update

    def fits(self, expected: bytes) -> bool:
        """Check whether the HMAC is the expected one of 32 bytes, in constant time."""
        return _fits(self._hmac, expected)


def _fits(hmac: HMAC, expected: bytes) -> bool:
    try:
        hmac.verify(expected)
    except InvalidSignature:
        return False
    return True


def _start(work: Callable[[memoryview], object], buffer: memoryview) -> Worker | None:
    """Start a second thread; return None if the system allows no further thread, or has no memory for its buffers."""
    try:
        return Worker(work, buffer)
    except (RuntimeError, MemoryError, OSError):
        return None


class Worker:
    """The second thread, and the ring of buffers that it shares with the caller.

    Args:
        update: takes each block, in the second thread.
        first_buffer: the first buffer of the ring; RING_BUFFERS - 1 others of its size are added.

    Attributes:
        blocks: the blocks to process, each the front part of a buffer of the ring.
        free: the buffers that may be filled.
    """

    def __init__(self, update: Callable[[memoryview], object], first_buffer: memoryview) -> None:
        from queue import SimpleQueue  # 2 ms that a small layer does not pay
        from threading import Thread

        self.blocks: SimpleQueue[memoryview | None] = SimpleQueue()
        self.free: SimpleQueue[memoryview] = SimpleQueue()
        self.free.put(first_buffer)
        for _ in range(limits.RING_BUFFERS - 1):
            self.free.put(new_buffer(len(first_buffer)))
        self._update = update
        self._failure: Exception | None = None
        self._thread: Thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait until every block is processed, and end the thread. Raise the thread's failure, if there was one."""
        self.blocks.put(None)
        self._thread.join()
        if self._failure:
            raise self._failure

    def _run(self) -> None:
        while (block := self.blocks.get()) is not None:
            try:
                self._update(block)
            except Exception as error:  # noqa: BLE001 - the caller waits for its buffer; `join` raises the failure
                self._failure = error
            self.free.put(memoryview(block.obj))
