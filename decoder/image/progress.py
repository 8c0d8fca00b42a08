"""Progress on standard error: bars, lines, JSON lines, or only remarks."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from decoder import limits

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

AUTO, PLAIN, JSON, NONE = "auto", "plain", "json", "none"
MODES = (AUTO, PLAIN, JSON, NONE)


class Task(Protocol):
    """The progress of one blob."""

    def advance(self, count: int) -> None:
        """Add a number of bytes to the progress."""

    def phase(self, label: str) -> None:
        """Start another pass over the same blob, for another purpose."""

    def restart(self, reason: str) -> None:
        """Restart from the beginning, for a reason."""

    def done(self, text: str) -> None:
        """Finish, with a result."""


class Progress:
    """Progress as lines: one for each remark, and one for each blob when it is finished.

    Attributes:
        remarks: the remarks so far, such as layers that are left unchanged.
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
        """Show a remark once, even if it concerns several layers."""
        with self._lock:
            if text not in self.remarks:
                self.remarks.append(text)
                self._say_remark(text)

    def task(self, label: str, size: int) -> Task:
        """Start a blob of a size in bytes."""
        return _Line(self, label)

    def finished(self, text: str) -> None:
        """Report that a blob is finished."""
        with self._lock:
            self._say(text)

    def _say_remark(self, text: str) -> None:
        self._say(text)

    def _say(self, text: str) -> None:
        _write(f"ctd-decoder: {text}")


class Quiet(Progress):
    """Progress that shows only remarks."""

    def finished(self, text: str) -> None:
        """Print nothing."""


class JsonLines(Progress):
    """Progress for programs, a JSON object in each line: start, progress, phase, restart, done, remark."""

    def task(self, label: str, size: int) -> Task:
        """Start a blob."""
        return _Events(self, label, size)

    def finished(self, text: str) -> None:
        """Report that a blob without a task is finished."""
        self.event(event="done", text=text)

    def event(self, **members: object) -> None:
        """Write one line."""
        with self._lock:
            _write(json.dumps(members))

    def _say_remark(self, text: str) -> None:
        _write(json.dumps({"event": "remark", "text": text}))


class Bars(Progress):
    """Progress as bars: one for each active blob, with the remaining time; remarks are lines above them."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
        from rich.progress import Progress as RichProgress

        super().__init__()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
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


def choose(mode: str, for_programs: bool) -> Progress:
    """Return the kind of progress to show.

    Args:
        mode: one of MODES; `auto` is bars at a terminal if their library is installed, and lines elsewhere.
        for_programs: whether the result is JSON; then `auto` shows only remarks.
    """
    if mode == JSON:
        return JsonLines()
    if mode == NONE or (mode == AUTO and for_programs):
        return Quiet()
    if mode == AUTO and sys.stderr.isatty():
        with suppress(ImportError):
            return Bars()
    return Progress()


def _write(line: str) -> None:
    with suppress(OSError):  # standard error is closed; the work goes on
        print(line, file=sys.stderr, flush=True)


class _Line:
    def __init__(self, progress: Progress, label: str) -> None:
        self._progress = progress
        self._label = label

    def advance(self, count: int) -> None:
        pass

    def phase(self, label: str) -> None:
        self._label = label

    def restart(self, reason: str) -> None:
        self._progress.finished(f"{self._label} starts again: {reason}")

    def done(self, text: str) -> None:
        self._progress.finished(text)


class _Bar(_Line):
    def __init__(self, progress: Progress, label: str, bars: RichProgress, task: TaskID) -> None:
        super().__init__(progress, label)
        self._bars = bars
        self._task = task

    def advance(self, count: int) -> None:
        self._bars.advance(self._task, count)

    def phase(self, label: str) -> None:
        self._bars.reset(self._task, description=label)
        super().phase(label)

    def restart(self, reason: str) -> None:
        self._bars.reset(self._task)
        super().restart(reason)

    def done(self, text: str) -> None:
        self._bars.remove_task(self._task)
        super().done(text)


class _Events:
    def __init__(self, progress: JsonLines, label: str, size: int) -> None:
        self._progress = progress
        self._label = label
        self._size = size
        self._bytes = 0
        self._next = monotonic() + limits.PROGRESS_SECONDS
        self._tell("start")

    def advance(self, count: int) -> None:
        self._bytes += count
        if monotonic() >= self._next:
            self._next = monotonic() + limits.PROGRESS_SECONDS
            self._tell("progress")

    def phase(self, label: str) -> None:
        self._label, self._bytes = label, 0
        self._tell("phase")

    def restart(self, reason: str) -> None:
        self._bytes = 0
        self._tell("restart", text=reason)

    def done(self, text: str) -> None:
        self._tell("done", text=text)

    def _tell(self, event: str, **members: object) -> None:
        self._progress.event(event=event, task=self._label, bytes=self._bytes, size=self._size, **members)
