"""A short-lived cache of opened key-encryption keys, in memory that is neither swapped out nor dumped.

Before that, the answer of a provider passes through ordinary memory, as it does in a process without a cache.
"""

from __future__ import annotations

import mmap
from threading import Event, Lock
from time import monotonic
from typing import TYPE_CHECKING

from decoder import limits
from decoder.provider.errors import ProviderError
from decoder.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable

MAP_LOCKED = 0x2000  # Linux, mmap(2); the module has no name for it


class _Slot(Record):
    number: int
    length: int
    until: float


class _Opening:
    """A key that one thread is opening, and others wait for."""

    def __init__(self) -> None:
        self.ended = Event()
        self.kek = b""
        self.error: ProviderError | None = None


class Keks:
    """A cache of at most OPENED_KEKS keys, for several threads; the oldest key is replaced.

    Args:
        seconds: how long each key is kept.

    Raises:
        OSError: the memory cannot be locked (RLIMIT_MEMLOCK).
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        size = limits.OPENED_KEKS * limits.KEK_BYTES
        self._memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_LOCKED)
        for advice in (mmap.MADV_DONTDUMP, mmap.MADV_DONTFORK):
            self._memory.madvise(advice)
        self._lock = Lock()
        self._slots: dict[bytes, _Slot] = {}
        self._free = list(range(limits.OPENED_KEKS))
        self._opening: dict[bytes, _Opening] = {}

    def opened(self, name: bytes, open_it: Callable[[], bytes], seconds: float) -> bytes:
        """Return a cached key, or open it. Callers that ask for the same key meanwhile wait for the same answer.

        Args:
            name: bytes that identify everything that the key depends on.
            open_it: opens the key. Failures are not cached.
            seconds: how long to wait for another thread that is opening the key.

        Raises:
            ProviderError: the key cannot be opened, or not in time.
        """
        with self._lock:
            if kept := self._get(name):
                return kept
            others = self._opening.get(name)
            opening = others or self._opening.setdefault(name, _Opening())
        if others:
            return _wait_for(others, seconds)
        try:
            opening.kek = self._open(name, open_it, seconds)
        except ProviderError as error:
            opening.error = error
            raise
        finally:
            with self._lock:
                del self._opening[name]
            opening.ended.set()
        return opening.kek

    def _open(self, name: bytes, open_it: Callable[[], bytes], _seconds: float) -> bytes:
        """Open a key and cache it; only one thread at a time does this for a name."""
        kek = open_it()
        with self._lock:
            self._put(name, kek)
        return kek

    def get(self, name: bytes) -> bytes | None:
        """Return the cached key of a name, unless it has expired."""
        with self._lock:
            return self._get(name)

    def sweep(self) -> None:
        """Wipe expired keys."""
        with self._lock:
            self._sweep()

    def _get(self, name: bytes) -> bytes | None:
        self._sweep()
        slot = self._slots.get(name)
        if slot is None:
            return None
        return self._memory[slot.number * limits.KEK_BYTES : slot.number * limits.KEK_BYTES + slot.length]

    def _put(self, name: bytes, kek: bytes) -> None:
        self._sweep()
        if len(kek) > limits.KEK_BYTES:
            return
        if name in self._slots or not self._free:
            self._wipe(name if name in self._slots else next(iter(self._slots)))
        number = self._free.pop()
        self._memory[number * limits.KEK_BYTES : number * limits.KEK_BYTES + len(kek)] = kek
        self._slots[name] = _Slot(number, len(kek), monotonic() + self._seconds)

    def _sweep(self) -> None:
        """Wipe expired keys, which are first in the order of insertion."""
        now = monotonic()
        while self._slots and next(iter(self._slots.values())).until <= now:
            self._wipe(next(iter(self._slots)))

    def _wipe(self, name: bytes) -> None:
        slot = self._slots.pop(name)
        self._memory[slot.number * limits.KEK_BYTES : (slot.number + 1) * limits.KEK_BYTES] = bytes(limits.KEK_BYTES)
        self._free.append(slot.number)


def _wait_for(opening: _Opening, seconds: float) -> bytes:
    if not opening.ended.wait(seconds):
        raise ProviderError(f"no answer within {seconds:g} seconds to another request for the same key")
    if not opening.kek:
        raise opening.error or ProviderError("another request for the same key failed")
    return opening.kek
