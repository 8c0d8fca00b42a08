"""A time limit for calls of a key service's library, which may have no limit of its own, or a longer one."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import TypeVar

from decoder.provider.errors import ProviderError

_Result = TypeVar("_Result")


def within(seconds: float, work: Callable[[], _Result]) -> _Result:
    """Run `work` in a thread, and stop waiting for it when the time is over.

    If the system allows no further thread (RLIMIT_NPROC, cgroups), the work is done in this one, without this limit.

    Args:
        seconds: the time limit.
        work: the call; its result is returned, and its exception is raised.

    Raises:
        ProviderError: the work did not end in time.
        BaseException: the exception of the work.
    """
    results: list[_Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - it is raised below, where it can be handled
            errors.append(error)

    thread = Thread(target=run, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return work()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise ProviderError(f"no answer within {seconds:g} seconds")
    return results[0]
