"""Read a descriptor to its end, within bounds of size and time."""

from __future__ import annotations

import os
from select import POLLIN, poll
from time import monotonic

from decoder import limits


def read_to_end(descriptor: int, most: int, seconds: float) -> bytes:
    """Read to the end, or until there are more than `most` bytes; the caller sees that by the length.

    Args:
        descriptor: open for reading; it may be non-blocking.
        most: bytes.
        seconds: for all of it.

    Raises:
        TimeoutError: the end did not come in time.
        OSError: reading failed.
    """
    deadline = monotonic() + seconds
    data = bytearray()
    waiting = poll()
    waiting.register(descriptor, POLLIN)
    while len(data) <= most:
        if not waiting.poll(max(0.0, deadline - monotonic()) * 1000):
            raise TimeoutError
        try:
            chunk = os.read(descriptor, limits.BUFFER_BYTES)
        except BlockingIOError:
            continue
        if not chunk:
            break
        data += chunk
    return bytes(data)
