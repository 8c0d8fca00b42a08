"""Repeating a write that was interrupted."""

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
    """Run work that writes a blob. If it is interrupted, repeat it from the start, up to REGISTRY_ATTEMPTS attempts.

    Args:
        work: writes the blob from the beginning.
        task: shows each repetition.

    Raises:
        InterruptedWriteError: the last attempt was interrupted, too.
        BaseException: any other exception of the work.
    """
    for pause in pauses():
        try:
            return work()
        except InterruptedWriteError as error:
            task.restart(str(error))
            sleep(pause)
    return work()
