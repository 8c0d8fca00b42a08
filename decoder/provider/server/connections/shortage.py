"""Shortages of the system, such as no free descriptor, in lines for the operator."""

from __future__ import annotations

import errno
from time import monotonic
from typing import TYPE_CHECKING, Any

from decoder import failure, limits

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

_ERRORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Shortage:
    """Reports shortages to the operator, at most once in PROVIDER_SERVER_SHORTAGE_LINE_SECONDS.

    Args:
        say: prints lines for the operator.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._quiet_until = 0.0

    def report(self, error: OSError) -> None:
        """Report that no connection can be accepted now."""
        if monotonic() < self._quiet_until:
            return
        self._quiet_until = monotonic() + limits.PROVIDER_SERVER_SHORTAGE_LINE_SECONDS
        self._say(
            f"warning: no connection can be accepted now: {error.strerror} (limits: RLIMIT_NOFILE, fs.file-max, "
            "memory); clients wait, and the server tries again each second"
        )

    def handle(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Report an error that asyncio has met outside of our code, without a traceback."""
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in _ERRORS:
            self.report(error)  # asyncio tries again itself
        elif error is not None:
            self._say(f"warning: {failure.internal_error(error)}")
