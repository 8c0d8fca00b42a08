"""The counters of a server, in memory that its processes share: one row for each process.

Each process writes its own row, and all of them read the sums. So nothing is lost when a process ends, and no file is
needed.
"""

from __future__ import annotations

import mmap
from bisect import bisect_left
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING

from decoder import limits

if TYPE_CHECKING:
    from collections.abc import Iterator

OPERATIONS = ("wrap", "unwrap", "wrap-kek", "unwrap-kek")
# In this order: success; refused by allow-key; denied by the client policy; limited by a rate; the server is busy; a
# malformed request; the provider failed; a defect of this program; the client went away.
OUTCOMES = ("ok", "refused", "denied", "limited", "busy", "malformed", "failed", "internal", "canceled")
BACKEND_OUTCOMES = ("ok", "failed")
# Upper bounds in seconds: a local key takes less than a millisecond, and a key service at most CLOUD_KMS_SECONDS.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, float("inf"))
CERTIFICATES = ("server", "client-ca")
RELOADED = ("tls", "policy")

Key = tuple[str, ...]
_COUNTERS: tuple[Key, ...] = (
    *(("requests", operation, outcome) for operation in OPERATIONS for outcome in OUTCOMES),
    *(("backend_requests", operation, outcome) for operation in OPERATIONS for outcome in BACKEND_OUTCOMES),
    *(
        (name, operation, part)
        for name in ("request_seconds", "backend_seconds")
        for operation in OPERATIONS
        for part in (*map(str, BOUNDS), "sum")
    ),
    ("refused_handshakes",),
    ("refused_connections",),
)
_GAUGES: tuple[Key, ...] = (
    ("in_flight",),
    ("waiting",),
    ("request_bytes",),
    ("connections",),
    ("backend_up",),
    ("beat",),  # when the process was last seen alive, by time.monotonic()
    *(("reload_failed", what) for what in RELOADED),
    *(("expiry", which) for which in CERTIFICATES),
)
_PLACES = {key: place for place, key in enumerate((*_COUNTERS, *_GAUGES))}
_NUMBER_BYTES = 8


class Tally:
    """The counters of all processes.

    Args:
        processes: the number of processes, and so of rows.
    """

    def __init__(self, processes: int) -> None:
        self._memory = memoryview(mmap.mmap(-1, processes * len(_PLACES) * _NUMBER_BYTES)).cast("d")
        self.rows = [Row(self._memory[at : at + len(_PLACES)]) for at in range(0, len(self._memory), len(_PLACES))]

    def total(self, *key: str) -> float:
        """Return the sum of a number over all processes."""
        return sum(row.get(*key) for row in self.rows)

    def living(self) -> Iterator[Row]:
        """Yield the rows of the processes that are running."""
        return (row for row in self.rows if row.get("beat"))


class Row:
    """The counters of one process, for several threads."""

    def __init__(self, numbers: memoryview[float]) -> None:
        self._numbers = numbers
        self._lock = Lock()

    def get(self, *key: str) -> float:
        """Return a number."""
        return self._numbers[_PLACES[key]]

    def add(self, *key: str, amount: float = 1) -> None:
        """Add to a number."""
        with self._lock:
            self._numbers[_PLACES[key]] += amount

    def set(self, *key: str, value: float) -> None:
        """Set a number."""
        self._numbers[_PLACES[key]] = value

    def observe(self, name: str, operation: str, seconds: float) -> None:
        """Add a duration to a histogram: `request_seconds` or `backend_seconds`."""
        bound = BOUNDS[bisect_left(BOUNDS, seconds)]
        self.add(name, operation, str(bound))
        self.add(name, operation, "sum", amount=seconds)

    def beat(self) -> None:
        """Record that the process is alive."""
        self.set("beat", value=monotonic())

    @property
    def is_stuck(self) -> bool:
        """Whether the process runs, but has not been seen alive for PROVIDER_SERVER_STUCK_SECONDS."""
        beat = self.get("beat")
        return bool(beat) and monotonic() - beat > limits.PROVIDER_SERVER_STUCK_SECONDS

    def clear(self) -> None:
        """Reset the gauges of a process that has ended; its counters stay."""
        for key in _GAUGES:
            self.set(*key, value=0)
