"""The zygote: has everything imported, forks workers ahead, and sees nothing of any layer but parsed keys of files."""

from __future__ import annotations

import gc
import os
import resource
import select
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from time import monotonic
from typing import NamedTuple, NoReturn

import decoder
from decoder import keywrap, limits
from decoder.agent import keeper, worker
from decoder.agent.notices import Notices
from decoder.agent.parsedkeys import ParsedKeys, signature
from decoder.agent.rehearsal import Rehearsal
from decoder.errors import DecoderError

_PROGRAM = str(decoder.__file__)  # a package manager or pip that replaces the program replaces this file too
_PRELOADED = (
    *("queue", "tempfile", "cryptography.hazmat.primitives.kdf.concatkdf"),
    *(
        "decoder.node.contentstore",
        "decoder.keywrap.deny",
        "decoder.node.journal",
        "decoder.provider.client.command",
        "decoder.node.storeroot",
    ),
    *(f"decoder.keywrap.{scheme}" for scheme in (*keywrap.SCHEMES, "keyprovider")),
)


class Settings(NamedTuple):
    """How the agent was started.

    Attributes:
        idle_seconds: it ends when it had nothing to do for so long; 0 for never.
        workers: how many layers at most are worked on at a time.
        opened_seconds: how long an opened key-encryption key is used again; 0 for not at all.
    """

    idle_seconds: float = 0.0
    workers: int = limits.AGENT_WORKERS
    opened_seconds: float = 0.0


def serve(listener: socket.socket, settings: Settings) -> None:
    """Serve clients until SIGTERM or SIGINT, until the program is replaced, or until it was idle for long.

    Layers that are being worked on then come to their end first.

    Args:
        listener: a listening Unix socket, of which only this user may make use.
        settings: as above.
    """
    _keep_memory_to_ourselves()
    _step_back()
    _preload()
    _Zygote(listener, settings).run()


def _keep_memory_to_ourselves() -> None:
    """Switch core dumps off; where a program takes them, the limit does not count, so leave nothing to take."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError), open("/proc/self/coredump_filter", "w", encoding="ascii") as file:  # core(5)
        file.write("0")


def _step_back() -> None:
    """Have a worker's notice not interrupt that worker, which costs 0.3 ms of a layer; children are as they were."""
    with suppress(OSError):  # not allowed: then it does
        os.sched_setscheduler(0, os.SCHED_BATCH | os.SCHED_RESET_ON_FORK, os.sched_param(0))


def _preload() -> None:
    """Import what layers need, but for what is rare or heavy."""
    gc.disable()  # it writes to memory that is shared with the workers as long as nobody does
    for name in _PRELOADED:
        import_module(name)


def _say(text: str) -> None:
    with suppress(OSError):
        os.write(2, f"ctd-decoder: {text}\n".encode())


class _Lifeline:
    """A pipe that ends for whoever waits at `reading` when what it stands for ends."""

    def __init__(self) -> None:
        self.reading, self._writing = os.pipe()

    def __bool__(self) -> bool:
        return bool(self._writing)

    def end(self) -> None:
        if self._writing:
            os.close(self._writing)
            self._writing = 0


class _Zygote:
    """The loop, and the processes that it has forked."""

    def __init__(self, listener: socket.socket, settings: Settings) -> None:
        self._listener, self._settings = listener, settings
        self._notices = Notices()
        self._life, self._shift = _Lifeline(), _Lifeline()
        self._parsed_keys = ParsedKeys()
        self._signature = signature(_PROGRAM)
        self._surroundings = worker.surroundings(os.getpid(), dict(os.environ))
        os.environ.clear()  # a worker gets its client's
        self._rehearsal = Rehearsal()
        self._rehearsal.play()
        self._waiting: set[int] = set()
        self._leaving: set[int] = set()  # those of an earlier shift
        self._working: set[int] = set()
        self._is_stale = False  # who waits does not have the parsed keys of now
        self._keepers: dict[bytes, tuple[int, socket.socket]] = {}
        self._refill_at = self._respawn_at = self._sweep_at = 0.0
        self._active_at = monotonic()
        self._signals, wakeup = os.pipe()
        for descriptor in (self._signals, wakeup):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)

    def run(self) -> None:
        events = select.poll()
        for waited_for in (self._notices, self._signals):
            events.register(waited_for, select.POLLIN)
        while self._is_wanted():
            self._fork_workers()
            events.poll(self._milliseconds())
            self._read_notices()
            self._read_signals()
            self._sweep()
        self._drain(events)

    def _is_wanted(self) -> bool:
        idle = self._settings.idle_seconds
        return bool(self._life) and (not idle or bool(self._working) or monotonic() < self._active_at + idle)

    def _milliseconds(self) -> float | None:
        """How long there may be nothing to do."""
        moments = []
        if self._is_stale or len(self._waiting) < self._spare():
            moments.append(max(self._respawn_at, self._refill_at))
        if self._parsed_keys:
            moments.append(self._sweep_at)
        if self._settings.idle_seconds and not self._working:
            moments.append(self._active_at + self._settings.idle_seconds)
        return max(0.0, min(moments) - monotonic()) * 1000 + 1 if moments else None

    def _spare(self) -> int:
        return min(limits.AGENT_SPARE_WORKERS, self._settings.workers - len(self._working))

    def _fork_workers(self) -> None:
        if self._is_stale and self._may_fork():
            self._change_shift()
        while len(self._waiting) < self._spare() and self._may_fork():
            self._waiting.add(self._fork(self._be_worker))

    def _change_shift(self) -> None:
        """Send away who waits, unless a client has just come; others take their places."""
        self._shift.end()
        os.close(self._shift.reading)
        self._shift = _Lifeline()
        self._leaving |= self._waiting
        self._waiting.clear()
        self._is_stale = False

    def _sweep(self) -> None:
        if self._parsed_keys and monotonic() >= self._sweep_at:
            self._sweep_at = monotonic() + limits.AGENT_SWEEP_SECONDS
            self._is_stale |= self._parsed_keys.drop_changed()

    def _fork(self, be: Callable[[], NoReturn]) -> int:
        """Start a child, which never comes back to the zygote's code, and return its number."""
        process = os.fork()
        if process:
            return process
        try:
            self._life.end()
            self._shift.end()
            worker.forget_the_zygote()
            be()
        finally:
            os._exit(DecoderError.status)

    def _be_worker(self) -> NoReturn:
        worker.rehearse(self._rehearsal)
        waiting_on = (self._listener, self._shift.reading)
        worker.work(*waiting_on, self._notices, self._surroundings, self._parsed_keys, self._is_current)

    def _may_fork(self) -> bool:
        """Forking takes time from the layer that has just begun: there is no hurry while half of them wait."""
        is_urgent = len(self._waiting) < self._spare() // 2
        return monotonic() >= max(self._respawn_at, 0.0 if is_urgent else self._refill_at)

    def _is_current(self) -> bool:
        return signature(_PROGRAM) == self._signature

    def _read_notices(self) -> None:
        while notice := self._notices.read():
            kind, content, descriptors = notice
            if kind == "taken":
                self._active_at = monotonic()
                self._refill_at = self._active_at + limits.AGENT_REFILL_SECONDS
                process = int(content)
                if process in self._waiting | self._leaving:
                    self._waiting.discard(process)
                    self._leaving.discard(process)
                    self._working.add(process)
            elif kind == "parsed":
                self._is_stale |= self._parsed_keys.add(content)
            elif kind == "outdated":
                self._end_life()
            elif kind == "keeper" and descriptors:
                self._hand_to_keeper(content, descriptors[0])

    def _hand_to_keeper(self, identity: bytes, connection: int) -> None:
        try:
            if identity not in self._keepers and len(self._keepers) < limits.AGENT_KEEPERS:
                self._keepers[identity] = self._fork_keeper(connection)
            if identity in self._keepers:
                with suppress(OSError):  # it has just ended
                    socket.send_fds(self._keepers[identity][1], [b"c"], [connection])
        finally:
            os.close(connection)  # the worker finds out, and does without

    def _fork_keeper(self, connection: int) -> tuple[int, socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def be_keeper() -> NoReturn:
            os.close(connection)  # it comes by the socket, and must end when the keeper closes that one
            self._listener.close()
            self._parsed_keys.clear()
            keeper.keep(theirs, self._life.reading, self._settings.opened_seconds)

        process = self._fork(be_keeper)
        theirs.close()
        ours.setblocking(False)
        return process, ours

    def _read_signals(self) -> None:
        try:
            received = os.read(self._signals, 512)
        except BlockingIOError:
            return
        if signal.SIGTERM in received or signal.SIGINT in received:
            self._end_life()
        while ended := self._reap():
            self._read_notices()  # what it had to tell, it told before it ended
            if ended in self._waiting and self._life:
                self._respawn_at = monotonic() + limits.AGENT_RESPAWN_SECONDS
                _say("a worker ended before it had anything to do")
            self._waiting.discard(ended)
            self._leaving.discard(ended)
            self._working.discard(ended)
            self._keepers = {key: value for key, value in self._keepers.items() if value[0] != ended}

    def _reap(self) -> int:
        try:
            return os.waitpid(-1, os.WNOHANG)[0]
        except ChildProcessError:
            return 0

    def _end_life(self) -> None:
        """Tell all who wait that there is no more work."""
        self._shift.end()
        self._life.end()

    def _drain(self, events: select.poll) -> None:
        """Wait for the layers that are being worked on; whoever else comes is sent away at once."""
        self._end_life()
        events.register(self._listener, select.POLLIN)
        while self._waiting or self._leaving or self._working or self._keepers:
            events.poll()
            with suppress(BlockingIOError, ConnectionAbortedError):
                self._listener.accept()[0].close()
            self._read_notices()
            self._read_signals()
