"""Reading a descriptor to its end, with bounds on size and time."""

from __future__ import annotations

import os
from select import POLLIN, poll
from time import monotonic

from decoder import limits


def read_to_end(descriptor: int, most: int, seconds: float) -> bytes:
    """Read a descriptor to its end.

    Args:
        descriptor: a descriptor that is open for reading; it may be non-blocking.
        most: the bound on the size, in bytes. Reading stops beyond it, so the result may be longer: check its length.
        seconds: the bound on the time until the end.

    Raises:
        TimeoutError: the end was not reached in time.
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
