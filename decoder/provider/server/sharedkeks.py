"""Opened key-encryption keys that all processes of a server use, so that each is opened once for all of them."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from contextlib import contextmanager
from time import monotonic, sleep
from typing import TYPE_CHECKING

from decoder import limits
from decoder.provider.errors import ProviderError
from decoder.provider.keks import MAP_LOCKED, Keks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# The name, when the key is wiped (by time.monotonic()), its length, and the key. Those without a name are free.
_KEK_BYTES = 64  # one has 42
_ENTRY = struct.Struct(f"=32sdB{_KEK_BYTES}s")
_FREE = bytes(32)
_ENTRIES = range(0, limits.OPENED_KEKS * _ENTRY.size, _ENTRY.size)
_PROBES = 16  # entries of which a key may have one
_OPENING = 1 << 32  # the first of the bytes that stand for names which somebody opens; they lie beyond the file
_POLL_SECONDS = 0.005


def create_file() -> int:
    """Create the memory for SharedKeks, before there are processes; return its descriptor."""
    file = os.memfd_create("keys", os.MFD_CLOEXEC)
    os.ftruncate(file, len(_ENTRIES) * _ENTRY.size)
    return file


class SharedKeks(Keks):
    """Like Keks, for several processes, of which each makes one after it was started.

    The kernel locks bytes of the file for a process (fcntl(2)), and unlocks them when that ends.

    Args:
        seconds: how long each is kept.
        file: what `create_file` has returned.

    Raises:
        OSError: the memory cannot be locked (RLIMIT_MEMLOCK).
    """

    def __init__(self, seconds: float, file: int) -> None:
        super().__init__(seconds)
        self._file = file
        self._shared = mmap.mmap(file, len(_ENTRIES) * _ENTRY.size, mmap.MAP_SHARED | MAP_LOCKED)
        self._shared.madvise(mmap.MADV_DONTDUMP)

    def _open(self, name: bytes, open_it: Callable[[], bytes], seconds: float) -> bytes:
        with self._alone(name, seconds):
            if kept := self.get(name):
                return kept
            return super()._open(name, open_it, seconds)

    @contextmanager
    def _alone(self, name: bytes, seconds: float) -> Iterator[None]:
        """Wait until no other process opens the key of this name."""
        start = _OPENING + int.from_bytes(name[:6])
        deadline = monotonic() + seconds
        while True:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, start)
                break
            except OSError as error:
                if monotonic() > deadline:
                    raise ProviderError(f"no answer within {seconds:g} seconds to another request for it") from error
                sleep(_POLL_SECONDS)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, start)

    def _get(self, name: bytes) -> bytes | None:
        with self._locked():
            for place in self._places(name):
                owner, until, length, kek = _ENTRY.unpack_from(self._shared, place)
                if owner == name and until > monotonic():
                    return bytes(kek[:length])
        return None

    def _put(self, name: bytes, kek: bytes) -> None:
        if len(kek) > _KEK_BYTES:
            return
        with self._locked():
            oldest, first = -1, float("inf")
            for place in self._places(name):
                owner, until, _, _ = _ENTRY.unpack_from(self._shared, place)
                if owner in (name, _FREE):
                    oldest = place
                    break
                if until < first:
                    oldest, first = place, until
            self._wipe_place(oldest)
            # The name is written last: nobody is to find half a key of a process that was killed here.
            _ENTRY.pack_into(self._shared, oldest, _FREE, monotonic() + self._seconds, len(kek), kek)
            self._shared[oldest : oldest + len(name)] = name

    def _sweep(self) -> None:
        now = monotonic()
        with self._locked():
            for place in _ENTRIES:
                owner, until, _, _ = _ENTRY.unpack_from(self._shared, place)
                if owner != _FREE and until <= now:
                    self._wipe_place(place)

    def _wipe_place(self, place: int) -> None:
        self._shared[place : place + _ENTRY.size] = bytes(_ENTRY.size)

    def _places(self, name: bytes) -> Iterator[int]:
        first = int.from_bytes(name[-4:])
        return (_ENTRIES[(first + step) % len(_ENTRIES)] for step in range(_PROBES))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes out; other threads are, for each caller holds the lock of this object."""
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, 0)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, 0)
