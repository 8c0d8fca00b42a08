"""Work that is done again after a failure which may pass."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from time import sleep
from typing import TypeVar

from decoder import limits
from decoder.image.transport import InterruptedWriteError

_Result = TypeVar("_Result")


def pauses() -> Iterator[float]:
    """Yield how long to wait before each further attempt, in seconds; REGISTRY_ATTEMPTS - 1 times."""
    longest = limits.REGISTRY_RETRY_SECONDS
    for _ in range(limits.REGISTRY_ATTEMPTS - 1):
        yield longest * random.uniform(0.5, 1)  # noqa: S311 - only to keep clients from asking all at once
        longest *= 2


def again(work: Callable[[], _Result]) -> _Result:
    """Do work that writes a blob; do all of it again while its writing is interrupted.

    Raises:
        InterruptedWriteError: the last attempt was, too.
        BaseException: what else the work raised.
    """
    for pause in pauses():
        try:
            return work()
        except InterruptedWriteError:
            sleep(pause)
    return work()
