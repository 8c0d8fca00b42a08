"""What takes long to make, made once for several requests: in the agent's keeper. Elsewhere nothing is held."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, cast

from decoder.record import Record

if TYPE_CHECKING:
    from typing import TypeVar

    _Made = TypeVar("_Made")


class _Entry(Record):
    thing: object
    until: float


seconds = 0.0  # how long a thing is used again after it was made; 0 where each is used once
_entries: dict[Hashable, _Entry] = {}
_lock = threading.Lock()


@contextmanager
def held(identity: Hashable, make: Callable[[], _Made], close: Callable[[_Made], object]) -> Iterator[_Made]:
    """Use a thing that was made before for the same identity, or make one.

    After a failure it is not used again, for it may be the cause.

    Args:
        identity: the same for things that can stand for each other.
        make: makes one.
        close: ends one that is not held; one that was held goes when its last user lets go of it.
    """
    if not seconds:
        thing = make()
        try:
            yield thing
        finally:
            close(thing)
        return
    with _lock:
        entry = _entries.get(identity)
    if entry is None or entry.until < monotonic():
        entry = _Entry(make(), monotonic() + seconds)
    try:
        yield cast("_Made", entry.thing)
    except BaseException:
        with _lock:
            _entries.pop(identity, None)
        raise
    with _lock:
        _entries[identity] = entry
