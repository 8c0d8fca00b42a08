"""Private options that a keyprovider has opened, for a time, in memory that is neither swapped out nor dumped.

That memory is what stays. The answer of a provider passes through ordinary memory before it gets there, as it does in a
process that keeps nothing.
"""

from __future__ import annotations

import mmap
from time import monotonic
from typing import NamedTuple

from decoder import limits

_MAP_LOCKED = 0x2000  # Linux, mmap(2); the module has no name for it
_SLOT_BYTES = 1024  # the reference's private options have about 200


class _Slot(NamedTuple):
    number: int
    length: int
    until: float


class OpenedKeys:
    """At most AGENT_OPENED_KEYS of them; the oldest makes room.

    Args:
        seconds: how long each is kept.

    Raises:
        OSError: so much memory cannot be locked (RLIMIT_MEMLOCK).
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        size = limits.AGENT_OPENED_KEYS * _SLOT_BYTES
        self._memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_LOCKED)
        for advice in (mmap.MADV_DONTDUMP, mmap.MADV_DONTFORK):
            self._memory.madvise(advice)
        self._slots: dict[bytes, _Slot] = {}
        self._free = list(range(limits.AGENT_OPENED_KEYS))

    def put(self, name: bytes, options: bytes) -> None:
        """Keep private options under a name; what does not fit is not kept."""
        self.sweep()
        if len(options) > _SLOT_BYTES:
            return
        if name in self._slots or not self._free:
            self._wipe(name if name in self._slots else next(iter(self._slots)))
        number = self._free.pop()
        self._memory[number * _SLOT_BYTES : number * _SLOT_BYTES + len(options)] = options
        self._slots[name] = _Slot(number, len(options), monotonic() + self._seconds)

    def get(self, name: bytes) -> bytes | None:
        """Return what is kept under a name, unless its time is over."""
        self.sweep()
        slot = self._slots.get(name)
        if slot is None:
            return None
        return self._memory[slot.number * _SLOT_BYTES : slot.number * _SLOT_BYTES + slot.length]

    def sweep(self) -> None:
        """Wipe what is over its time; they are in the order in which they came."""
        now = monotonic()
        while self._slots and next(iter(self._slots.values())).until <= now:
            self._wipe(next(iter(self._slots)))

    def _wipe(self, name: bytes) -> None:
        slot = self._slots.pop(name)
        self._memory[slot.number * _SLOT_BYTES : (slot.number + 1) * _SLOT_BYTES] = bytes(_SLOT_BYTES)
        self._free.append(slot.number)
