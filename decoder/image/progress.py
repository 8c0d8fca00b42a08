"""What people and programs see of the work: bars at a terminal, lines elsewhere, nothing but remarks for programs."""

from __future__ import annotations

import sys
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


class Task(Protocol):
    """One blob's way."""

    def advance(self, count: int) -> None:
        """Tell that so many more bytes went through."""

    def restart(self, reason: str) -> None:
        """Tell that none of them counts, for it begins anew, and why."""

    def done(self, text: str) -> None:
        """Tell that it is finished, and what came of it."""


class Progress:
    """Lines on standard error: one for each remark, and for each blob when it is finished.

    Attributes:
        remarks: what was said that was not done, or is worth knowing.
    """

    def __init__(self) -> None:
        self.remarks: list[str] = []
        self._lock = Lock()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def remark(self, text: str) -> None:
        """Say something once, however many layers it is about."""
        with self._lock:
            if text not in self.remarks:
                self.remarks.append(text)
                self._say(text)

    def task(self, label: str, size: int) -> Task:
        """Start a blob of so many bytes."""
        return _Line(self, label)

    def finished(self, text: str) -> None:
        """Say that a blob is finished."""
        with self._lock:
            self._say(text)

    def _say(self, text: str) -> None:
        with suppress(OSError):  # if nobody listens, the work goes on
            print(f"ctd-decoder: {text}", file=sys.stderr, flush=True)


class Quiet(Progress):
    """Remarks alone, for programs."""

    def finished(self, text: str) -> None:
        """Say nothing."""


class Bars(Progress):
    """A bar for each blob that is on its way, and lines above them."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
        from rich.progress import Progress as RichProgress

        super().__init__()
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._bars: RichProgress = RichProgress(*columns, console=Console(stderr=True), transient=True)

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def task(self, label: str, size: int) -> Task:
        """Start a bar."""
        return _Bar(self, label, self._bars, self._bars.add_task(label, total=size))

    def _say(self, text: str) -> None:
        self._bars.console.print(f"ctd-decoder: {text}", markup=False, highlight=False, soft_wrap=True)


def choose(for_programs: bool) -> Progress:
    """Choose bars at a terminal if their library is there, lines elsewhere, and little for programs."""
    if for_programs:
        return Quiet()
    if sys.stderr.isatty():
        with suppress(ImportError):
            return Bars()
    return Progress()


class _Line:
    def __init__(self, progress: Progress, label: str) -> None:
        self._progress = progress
        self._label = label

    def advance(self, count: int) -> None:
        pass

    def restart(self, reason: str) -> None:
        self._progress.finished(f"{self._label} begins anew: {reason}")

    def done(self, text: str) -> None:
        self._progress.finished(text)


class _Bar(_Line):
    def __init__(self, progress: Progress, label: str, bars: RichProgress, task: TaskID) -> None:
        super().__init__(progress, label)
        self._bars = bars
        self._task = task

    def advance(self, count: int) -> None:
        self._bars.advance(self._task, count)

    def restart(self, reason: str) -> None:
        self._bars.reset(self._task)
        super().restart(reason)

    def done(self, text: str) -> None:
        self._bars.remove_task(self._task)
        super().done(text)
