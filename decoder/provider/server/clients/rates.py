"""The request rates of clients, in memory that the processes of a server share.

The algorithm is GCRA, the generic cell rate algorithm (ITU-T I.371). It keeps one number per client: the time at which
the client will have its full burst again. Entries whose time has passed are reused for other clients.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from contextlib import contextmanager
from hashlib import sha256
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING

from decoder import limits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from decoder.provider.server.clients.clientpolicy import Rate

_ENTRY = struct.Struct("=Qd")  # a hash of the client's name, and its time


class Rates:
    """The rates of at most CLIENT_RATES clients at a time; beyond that, some clients share an entry and its rate.

    It must be created before the processes that share it are started.
    """

    def __init__(self) -> None:
        self._file = os.memfd_create("rates", os.MFD_CLOEXEC)
        size = limits.CLIENT_RATES * _ENTRY.size
        os.ftruncate(self._file, size)
        self._memory = mmap.mmap(self._file, size)
        self._lock = Lock()

    def allows(self, name: str, rate: Rate) -> bool:
        """Count a request and return True; return False if there were too many.

        Args:
            name: a text that identifies the client and the rule.
            rate: the allowed rate.
        """
        digest = sha256(name.encode(errors="surrogatepass")).digest()
        identity = int.from_bytes(digest[:8]) | 1  # 0 is an unused entry
        first = int.from_bytes(digest[8:16]) % limits.CLIENT_RATES
        with self._locked():
            now = monotonic()
            place, due = self._find(identity, first, now)
            due = max(due, now)
            if due - now > (rate.burst - 1) / rate.per_second:
                return False
            _ENTRY.pack_into(self._memory, place, identity, due + 1 / rate.per_second)
        return True

    def _find(self, identity: int, first: int, now: float) -> tuple[int, float]:
        """Find the position and the time of a client's entry; a client without one gets one whose time has passed."""
        free = -1
        for step in range(limits.HASH_PROBES):
            place = (first + step) % limits.CLIENT_RATES * _ENTRY.size
            owner, due = _ENTRY.unpack_from(self._memory, place)
            if owner == identity:
                return place, due
            if free < 0 and due <= now:
                free = place
        if free >= 0:
            return free, now
        return first * _ENTRY.size, _ENTRY.unpack_from(self._memory, first * _ENTRY.size)[1]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Exclude other threads and processes; the kernel releases the lock of a process that ends."""
        with self._lock:
            fcntl.lockf(self._file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.lockf(self._file, fcntl.LOCK_UN)
