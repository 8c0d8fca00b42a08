"""Clients and connections that are kept for several requests; only the agent's keeper reuses them."""

from __future__ import annotations

from _thread import allocate_lock  # threading is built on it, and a cold start would pay for importing it
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, cast

from decoder.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator
    from typing import TypeVar

    from decoder.provider.keks import Keks

    _Made = TypeVar("_Made")


class _Entry(Record):
    thing: object
    until: float


class Held:
    """Clients and connections, by their identity.

    Args:
        seconds: how long each is reused after it was created; 0 to use each only once.
        keks: the cache for opened key-encryption keys; None for no cache.
    """

    def __init__(self, seconds: float = 0.0, keks: Keks | None = None) -> None:
        self.keks = keks
        self._seconds = seconds
        self._entries: dict[Hashable, _Entry] = {}
        self._lock = allocate_lock()

    @contextmanager
    def use(self, identity: Hashable, make: Callable[[], _Made], close: Callable[[_Made], object]) -> Iterator[_Made]:
        """Return a context with an object that was created before for the same identity, or with a new one.

        After a failure in the block the object is not reused, because it may be the cause.

        Args:
            identity: a value that is equal for objects that can replace each other.
            make: creates an object.
            close: closes an object that is used only once; reused ones close when nothing refers to them any more.
        """
        if not self._seconds:
            thing = make()
            try:
                yield thing
            finally:
                close(thing)
            return
        with self._lock:
            entry = self._entries.get(identity)
        if entry is None or entry.until < monotonic():
            self._forget_old()
            entry = _Entry(make(), monotonic() + self._seconds)
        try:
            yield cast("_Made", entry.thing)
        except BaseException:
            with self._lock:
                self._entries.pop(identity, None)
            raise
        with self._lock:
            self._entries[identity] = entry

    def _forget_old(self) -> None:
        """Drop objects that have expired, such as connections that were created with older files."""
        now = monotonic()
        with self._lock:
            for identity in [each for each, entry in self._entries.items() if entry.until < now]:
                del self._entries[identity]


EACH_ONCE = Held()
