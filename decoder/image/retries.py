"""Work that is done again after a failure which may pass."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from time import sleep
from typing import TYPE_CHECKING, TypeVar

from decoder import limits
from decoder.image.transport import InterruptedWriteError

if TYPE_CHECKING:
    from decoder.image.progress import Task

_Result = TypeVar("_Result")


def pauses() -> Iterator[float]:
    """Yield how long to wait before each further attempt, in seconds; REGISTRY_ATTEMPTS - 1 times."""
    longest = limits.REGISTRY_RETRY_SECONDS
    for _ in range(limits.REGISTRY_ATTEMPTS - 1):
        yield longest * random.uniform(0.5, 1)  # noqa: S311 - only to keep clients from asking all at once
        longest *= 2


def again(work: Callable[[], _Result], task: Task) -> _Result:
    """Do work that writes a blob; do all of it again while its writing is interrupted, REGISTRY_ATTEMPTS times in all.

    Args:
        work: starts from the beginning each time.
        task: is told that it does.

    Raises:
        InterruptedWriteError: the last attempt was, too.
        BaseException: what else the work raised.
    """
    for pause in pauses():
        try:
            return work()
        except InterruptedWriteError as error:
            task.restart(str(error))
            sleep(pause)
    return work()
