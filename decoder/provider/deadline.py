"""A time limit on the work of a key service's library, which may have none or longer ones of its own."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import TypeVar

from decoder.provider.errors import ProviderError

_Result = TypeVar("_Result")


def within(seconds: float, work: Callable[[], _Result]) -> _Result:
    """Run work in a thread, and stop waiting for it when the time is over.

    If no thread may be started (RLIMIT_NPROC, cgroups), it is done in this one, and has only its own time limits.

    Raises:
        ProviderError: it has not ended in time.
        BaseException: what the work raised.
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
