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
from decoder.provider.server.connections import listening

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from decoder.provider.server.connections.listening import Addresses

_CPU_MAX = "/sys/fs/cgroup/cpu.max"  # of the container (cgroups(7)): quota and period, or "max" and period
_BOUNDS = "limits: RLIMIT_NPROC, pids.max of the control group, memory"
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
    sockets: Sequence[Sequence[socket.socket]],
) -> int | None:
    """Run several processes until SIGTERM or SIGINT; a process that ends before that is replaced.

    While a process cannot be started, the others serve alone, and starting it is tried again each second.

    Args:
        count: the number of processes.
        work: runs in each process until its lifeline ends; its exceptions are raised in that process.
        listens: is called in this process once all others listen.
        say: prints lines for the operator.
        ended: is called in this process with the number of a process that has ended.
        sockets: the listening sockets of each process. They are closed to clients while it cannot be started.

    Returns:
        The exit status in this process, None in the others.

    Raises:
        ListenError: a process does not begin to listen in time, or none can be started.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    family = _Family(work, before, sockets)
    for number in range(count):
        try:
            if family.start(number) == 0:
                return None
        except _NoProcessError as error:
            if number == 0:
                raise ListenError(f"no process of the server can be started: {error}") from error
            family.lack(range(number, count), error, say)
            break
        status = family.wait_until_ready()
        if status is not None:
            family.stop()
            if status < 0:
                raise ListenError(
                    f"a process of the server was ended by {signal.Signals(-status).name} while it started"
                )
            return status  # the process has printed the reason
    listens()
    came = family.replace(say, ended)
    if came is None:
        return None
    say(f"stopping ({came.name})")
    family.stop()
    return 0


class _NoProcessError(Exception):
    """A process cannot be started now."""


class _Family:
    """The processes that were started."""

    def __init__(
        self,
        work: Callable[[Child], None],
        mask: set[int | signal.Signals],
        sockets: Sequence[Sequence[socket.socket]],
    ) -> None:
        self._work = work
        self._mask = mask
        self._children: dict[int, int] = {}
        self._lifeline, self._life = os.pipe()
        self._ready, self._tell_ready = os.pipe()
        self._sockets = sockets
        self._absent: list[int] = []  # the numbers of processes to start
        self._closed: dict[int, Addresses] = {}  # the processes that could not be started, with their addresses
        self._is_lacking = False

    def start(self, number: int) -> int:
        """Start a process; return its process number, or 0 in the process itself once its work is done.

        Raises:
            _NoProcessError: no process can be started now.
        """
        try:
            child = os.fork()
        except OSError as error:
            raise _NoProcessError(f"{error.strerror} ({_BOUNDS})") from error
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
        while not waiting.poll(limits.PROVIDER_SERVER_POLL_SECONDS * 1000):
            if ended := self.reap():
                return ended[0][1]
            if monotonic() > deadline:
                self.stop()
                seconds = limits.PROVIDER_SERVER_START_SECONDS
                raise ListenError(f"a process of the server does not listen after {seconds:.0f} seconds")
        os.read(self._ready, 1)
        return None

    def replace(self, say: Callable[[str], None], ended: Callable[[int], None]) -> signal.Signals | None:
        """Start absent processes, and those that end, after a pause; return the signal that ends the server.

        Returns:
            None in a process that was started.
        """
        start_at = monotonic() + limits.PROVIDER_SERVER_RESPAWN_SECONDS
        while (came := _next_signal(start_at - monotonic() if self._absent else None)) in (None, signal.SIGCHLD):
            for number, status in self.reap():
                ended(number)
                say(f"warning: a process of the server ended with status {status}; another one is started")
                self._absent.append(number)
                start_at = monotonic() + limits.PROVIDER_SERVER_RESPAWN_SECONDS
            if self._absent and monotonic() >= start_at:
                if self._start_absent(say):
                    return None
                start_at = monotonic() + limits.PROVIDER_SERVER_RESPAWN_SECONDS
        return came

    def _start_absent(self, say: Callable[[str], None]) -> bool:
        """Start the absent processes, as far as possible; return True in a process that was started."""
        while self._absent:
            number = self._absent[0]
            try:
                self._open_again(number)
                if self.start(number) == 0:
                    return True
            except _NoProcessError as error:
                self.lack(self._absent, error, say)
                return False
            del self._absent[0]
        if self._is_lacking:
            self._is_lacking = False
            say("all processes of the server run again")
        return False

    def _open_again(self, number: int) -> None:
        if number not in self._closed:
            return
        try:
            listening.open_again(self._sockets[number], self._closed[number])
        except OSError as error:
            raise _NoProcessError(f"it cannot listen: {error.strerror}") from error
        del self._closed[number]

    def lack(self, numbers: Sequence[int], why: _NoProcessError, say: Callable[[str], None]) -> None:
        """Go on without some processes: clients get connections to the others only."""
        if not self._is_lacking:
            self._is_lacking = True
            say(f"warning: a process of the server cannot be started: {why}; the server tries again")
        self._absent = list(numbers)
        for number in numbers:
            if number not in self._closed:
                self._closed[number] = listening.close_for_now(self._sockets[number])

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


def _next_signal(seconds: float | None) -> signal.Signals | None:
    """Wait for a signal; return None if none comes in this time. None waits forever."""
    if seconds is None:
        return signal.Signals(signal.sigwait(_SIGNALS))
    came = signal.sigtimedwait(_SIGNALS, max(0.0, seconds))
    return signal.Signals(came.si_signo) if came else None
