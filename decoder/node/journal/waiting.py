"""A note in the journal while a decoder waits, because containerd's clients show nothing until it ends."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

from decoder import limits

if TYPE_CHECKING:
    from collections.abc import Iterator

_STARTED_BY_CONTAINERD = "STREAM_PROCESSOR_MEDIATYPE"


@contextmanager
def noted(what: str) -> Iterator[None]:
    """Log a note if the block takes longer than WAITING_SECONDS, but only in a decoder that containerd started.

    A timer signal interrupts the wait, which Python resumes (PEP 475). A thread instead would take time from every
    layer.

    Args:
        what: a noun phrase for the note, such as a name of a keyprovider.
    """
    if _STARTED_BY_CONTAINERD not in os.environ or signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL:
        yield
        return

    def note(*_: object) -> None:
        from decoder.node.journal.failures import report_warnings

        report_warnings([f"still waiting for {what} after {limits.WAITING_SECONDS:g} seconds"])

    try:
        signal.signal(signal.SIGALRM, note)
    except ValueError:  # not in the main thread, where signals are handled
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, limits.WAITING_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
