"""Several processes that serve one TCP port: the kernel spreads connections over them (SO_REUSEPORT, socket(7)).

One process uses about one processor, because the interpreter runs one thread at a time.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from select import POLLIN, poll
from time import monotonic, sleep
from typing import TYPE_CHECKING, NamedTuple

from decoder import limits
from decoder.node.unixsocket import ListenError

if TYPE_CHECKING:
    from collections.abc import Callable

_CPU_MAX = "/sys/fs/cgroup/cpu.max"  # of the container (cgroups(7)): quota and period, or "max" and period
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


class Child(NamedTuple):
    """The connection of one of several processes to its parent.

    Attributes:
        number: the number of the process, from 0; a replacement has the number of the process that it replaces.
        lifeline: the reading end of a pipe that the parent closes when the process is to stop.
        ready: the writing end of a pipe that gets one byte when the process listens.
    """

    number: int
    lifeline: int
    ready: int

    def tell_ready(self) -> None:
        """Report to the parent that the process is listening."""
        os.write(self.ready, b"1")


def default_count() -> int:
    """Return the default number of processes: one per processor that affinity and the control group's quota allow.

    Returns:
        From 1 to PROVIDER_SERVER_PROCESSES.
    """
    processors = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):  # no quota, or control groups of version 1
        quota, period = Path(_CPU_MAX).read_text(encoding="ascii").split()
        processors = min(processors, max(1, int(quota) // int(period)))
    return min(processors, limits.PROVIDER_SERVER_PROCESSES)


def run(
    count: int,
    work: Callable[[Child], None],
    listens: Callable[[], None],
    say: Callable[[str], None],
    ended: Callable[[int], None],
) -> int | None:
    """Run several processes until SIGTERM or SIGINT; a process that ends before that is replaced.

    Args:
        count: the number of processes.
        work: runs in each process until its lifeline ends; its exceptions are raised in that process.
        listens: is called in this process once all others listen.
        say: prints lines for the operator.
        ended: is called in this process with the number of a process that has ended.

    Returns:
        The exit status in this process, None in the others.

    Raises:
        ListenError: a process does not begin to listen in time.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    family = _Family(work, before)
    for number in range(count):
        if family.start(number) == 0:
            return None
        status = family.wait_until_ready()
        if status is not None:
            family.stop()
            return status  # the process has printed the reason
    listens()
    while (came := signal.sigwait(_SIGNALS)) == signal.SIGCHLD:
        for number, status in family.reap():
            ended(number)
            say(f"warning: a process of the server ended with status {status}; another one is started")
            sleep(limits.PROVIDER_SERVER_RESPAWN_SECONDS)
            if family.start(number) == 0:
                return None
    say(f"stopping ({signal.Signals(came).name})")
    family.stop()
    return 0


class _Family:
    """The processes that were started."""

    def __init__(self, work: Callable[[Child], None], mask: set[int | signal.Signals]) -> None:
        self._work = work
        self._mask = mask
        self._children: dict[int, int] = {}
        self._lifeline, self._life = os.pipe()
        self._ready, self._tell_ready = os.pipe()

    def start(self, number: int) -> int:
        """Start a process; return its process number, or 0 in the process itself once its work is done."""
        child = os.fork()
        if child:
            self._children[child] = number
            return child
        os.close(self._life)
        os.close(self._ready)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        self._work(Child(number, self._lifeline, self._tell_ready))
        return 0

    def wait_until_ready(self) -> int | None:
        """Wait until a new process listens and return None; if it ends instead, return its exit status."""
        waiting = poll()
        waiting.register(self._ready, POLLIN)
        deadline = monotonic() + limits.PROVIDER_SERVER_START_SECONDS
        while not waiting.poll(100):
            if ended := self.reap():
                return ended[0][1]
            if monotonic() > deadline:
                self.stop()
                seconds = limits.PROVIDER_SERVER_START_SECONDS
                raise ListenError(f"a process of the server does not listen after {seconds:.0f} seconds")
        os.read(self._ready, 1)
        return None

    def reap(self) -> list[tuple[int, int]]:
        """Return the numbers of the processes that have ended, with their exit statuses."""
        ended = []
        for child in list(self._children):
            process, status = os.waitpid(child, os.WNOHANG)
            if process:
                ended.append((self._children.pop(child), os.waitstatus_to_exitcode(status)))
        return ended

    def stop(self) -> None:
        """Ask all processes to finish their work, wait for their end, and kill those that take too long."""
        os.close(self._life)
        deadline = monotonic() + limits.PROVIDER_SERVER_GRACE_SECONDS + limits.PROVIDER_SERVER_RESPAWN_SECONDS
        while self._children and monotonic() < deadline:
            self.reap()
            sleep(limits.SOCKET_LOCK_POLL_SECONDS)
        for child in self._children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
