"""Opened key-encryption keys that all processes of a server share, so that each key is opened only once."""

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

# An entry: the name, the time when the key expires (by time.monotonic()), its length, and the key. The name of a free
# entry is zero.
_ENTRY = struct.Struct(f"=32sdB{limits.KEK_BYTES}s")
_FREE = bytes(32)
_ENTRIES = range(0, limits.OPENED_KEKS * _ENTRY.size, _ENTRY.size)
_OPENING = 1 << 32  # bytes from here on, beyond the end of the file, are locked while the key of a name is being opened


def create_file() -> int:
    """Create the memory for SharedKeks, before the processes are started; return its descriptor."""
    file = os.memfd_create("keys", os.MFD_CLOEXEC)
    os.ftruncate(file, len(_ENTRIES) * _ENTRY.size)
    return file


class SharedKeks(Keks):
    """Keks for several processes; each process creates its own object on the same memory.

    Processes exclude each other with record locks (fcntl(2)), which the kernel releases when a process ends.

    Args:
        seconds: how long each key is kept.
        file: the result of `create_file`.

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
        """Wait until no other process is opening the key with this name, and keep others from it in the block."""
        start = _OPENING + int.from_bytes(name[:6])
        deadline = monotonic() + seconds
        while True:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, start)
                break
            except OSError as error:
                if monotonic() > deadline:
                    raise ProviderError(f"no answer within {seconds:g} seconds to another request for it") from error
                sleep(limits.KEK_POLL_SECONDS)
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
        if len(kek) > limits.KEK_BYTES:
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
            # The name is written last, so that no process finds half a key if this one is killed here.
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
        return (_ENTRIES[(first + step) % len(_ENTRIES)] for step in range(limits.HASH_PROBES))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Exclude other processes. Other threads are excluded already, because callers hold this object's lock."""
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, 0)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, 0)
