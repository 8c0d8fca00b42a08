"""Several processes that serve one TCP port: the kernel spreads connections over them (SO_REUSEPORT, socket(7)).

One process answers about as many calls as one processor can, since the interpreter runs one thread at a time.
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
    """What a process of several has of its parent.

    Attributes:
        number: from 0; a process that is started again has the number of the one before it.
        lifeline: a descriptor that reads to its end when the process is to stop.
        ready: a descriptor to write one byte to when the process listens.
    """

    number: int
    lifeline: int
    ready: int

    def tell_ready(self) -> None:
        """Report to the parent that the process is listening."""
        os.write(self.ready, b"1")


def default_count() -> int:
    """Return how many processors this process may use, also by its control group's quota.

    Returns:
        At least 1, at most PROVIDER_SERVER_PROCESSES.
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
    """Run several processes until SIGTERM or SIGINT; one that ends by itself is started again.

    Args:
        count: how many.
        work: what each does until its lifeline ends; its exceptions pass through, in that process.
        listens: called in this process once all listen.
        say: takes what the operator should know.
        ended: called in this process with the number of a process that has ended.

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
            return status  # it has said why
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
        """Start a process; 0 in the process itself, when its work is done."""
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
        """Wait for a process that was started; return its exit status if it ends instead."""
        waiting = poll()
        waiting.register(self._ready, POLLIN)
        deadline = monotonic() + limits.PROVIDER_SERVER_START_SECONDS
        while not waiting.poll(100):
            if ended := self.reap():
                return ended[0][1]
            if monotonic() > deadline:
                self.stop()
                raise ListenError("a process of the server does not begin to listen")
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
        """Ask all processes to finish their work, and wait for their end."""
        os.close(self._life)
        deadline = monotonic() + limits.PROVIDER_SERVER_GRACE_SECONDS + limits.PROVIDER_SERVER_RESPAWN_SECONDS
        while self._children and monotonic() < deadline:
            self.reap()
            sleep(limits.SOCKET_LOCK_POLL_SECONDS)
        for child in self._children:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
