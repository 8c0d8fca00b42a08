"""The workers of a zygote, by what each does; the zygote learns it from their notices."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from decoder.agent.processes.counts import Counts


class Workers:
    """Processes that wait for a client, have one, or leave.

    Args:
        counts: counts the clients of workers that end before the outcome is known.

    Attributes:
        waiting: the workers that wait for a client.
        working: the workers that have a client, and whether its outcome is known.
        active_at: when the last layer ended, by time.monotonic(); requests for the status do not count.
    """

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self.waiting: set[int] = set()
        self.working: dict[int, bool] = {}
        self._returned: set[int] = set()  # workers that have decrypted a layer: they may end without another one
        self._leaving: set[int] = set()  # workers of an earlier shift: they end, or have just got a client
        self._asked: set[int] = set()  # workers that were asked for the status: this does not keep the agent alive
        self.active_at = monotonic()

    def __bool__(self) -> bool:
        return bool(self.waiting or self._leaving or self.working)

    def add(self, process: int) -> None:
        """Add a new worker."""
        self.waiting.add(process)

    def change_shift(self) -> None:
        """Expect that all waiting workers leave."""
        self._leaving |= self.waiting
        self.waiting.clear()

    def take(self, process: int) -> None:
        """Record that a worker has a client. A worker that was told to end may have just accepted one."""
        if process in self.waiting | self._leaving:
            self.waiting.discard(process)
            self._leaving.discard(process)
            self.working[process] = False

    def settle(self, process: int, has_asked: bool = False) -> None:
        """Record that the outcome of a worker's client is known."""
        if process in self.working:
            self.working[process] = True
        if has_asked:
            self._asked.add(process)

    def come_back(self, process: int) -> None:
        """Record that a worker is done with its client, and waits for another one."""
        if process in self.working:
            self._end_work(process)
            self._returned.add(process)
            self.waiting.add(process)

    def end(self, process: int) -> bool:
        """Forget a process that has ended; return whether that was a new worker that had nothing to do yet."""
        has_failed = process in self.waiting - self._returned
        if process in self.working:
            self._end_work(process)
        for processes in (self.waiting, self._returned, self._leaving, self._asked):
            processes.discard(process)
        return has_failed

    def _end_work(self, process: int) -> None:
        self._counts.fallen_back += not self.working.pop(process)
        if process not in self._asked:
            self.active_at = monotonic()
