"""Repeated writing after interruptions."""

from __future__ import annotations

from collections.abc import Callable
from time import sleep
from typing import TYPE_CHECKING, TypeVar

from decoder.image.errors import InterruptedWriteError
from decoder.registry.retries import pauses

if TYPE_CHECKING:
    from decoder.image.progress import Task

_Result = TypeVar("_Result")


def again(work: Callable[[], _Result], task: Task) -> _Result:
    """Run work that writes a blob; repeat all of it while it is interrupted, at most REGISTRY_ATTEMPTS times.

    Args:
        work: starts from the beginning each time.
        task: shows each repetition.

    Raises:
        InterruptedWriteError: the last attempt was interrupted as well.
        BaseException: what else the work raised.
    """
    for pause in pauses():
        try:
            return work()
        except InterruptedWriteError as error:
            task.restart(str(error))
            sleep(pause)
    return work()
