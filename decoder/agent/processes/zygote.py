"""The zygote: it imports all modules and forks workers in advance; of layers it only sees parsed key files."""

from __future__ import annotations

import gc
import os
import resource
import select
import signal
import socket
import sys
from contextlib import suppress
from importlib import import_module
from time import monotonic
from typing import TYPE_CHECKING

import decoder
from decoder import limits
from decoder.agent import confinement, messages
from decoder.agent.processes import keeper, worker
from decoder.agent.processes.counts import BUSY, Counts
from decoder.agent.processes.parsedkeys import ParsedKeys
from decoder.agent.processes.preloading import ON_DEMAND, PRELOADED
from decoder.agent.processes.textfile import Textfile
from decoder.agent.processes.workers import Workers
from decoder.errors import DecoderError
from decoder.node.filestate import state_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from decoder.agent.endpoint import Endpoint
    from decoder.agent.notices import Kind, Notices
    from decoder.agent.processes.rehearsal import Rehearsal
    from decoder.agent.settings import Settings

_PROGRAM = str(decoder.__file__)  # every update of the program replaces this file, by a package manager or by pip


def serve(endpoint: Endpoint, settings: Settings, notices: Notices) -> None:
    """Serve clients until SIGTERM or SIGINT, until the program or socket is replaced, or until the idle time is over.

    Layers that are being decrypted are finished first.

    Args:
        endpoint: the socket, which only this user may use.
        settings: the agent's settings; `idle_seconds` is the idle time.
        notices: the channel on which workers, and the layer that has started the agent, send notices.
    """
    gc.disable()  # a collection writes to every object, and so copies the memory that is shared with the workers
    _keep_memory_to_ourselves()
    _run_as_batch()
    _Zygote(endpoint, settings, notices).run()


def _keep_memory_to_ourselves() -> None:
    """Switch core dumps off, as they would hold keys.

    A program that collects core dumps ignores RLIMIT_CORE, so leave all memory out of the dump, too.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError), open("/proc/self/coredump_filter", "w", encoding="ascii") as file:  # core(5)
        file.write("0")


def _run_as_batch() -> None:
    """Run as SCHED_BATCH, so that waking up for a notice does not preempt the worker that sent it.

    That would cost 0.3 ms of a layer. Children start with the normal policy.
    """
    with suppress(OSError):  # it is not allowed
        os.sched_setscheduler(0, os.SCHED_BATCH | os.SCHED_RESET_ON_FORK, os.sched_param(0))


class _Lifeline:
    """A pipe whose reader sees its end when the zygote calls `end`, or is gone."""

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

    def __init__(self, endpoint: Endpoint, settings: Settings, notices: Notices) -> None:
        self._endpoint, self._settings, self._notices = endpoint, settings, notices
        self._counts = Counts()
        self._textfile = Textfile(settings.metrics, endpoint.name)
        self._life, self._shift = _Lifeline(), _Lifeline()
        self._parsed_keys = ParsedKeys()
        self._processors = len(os.sched_getaffinity(0))
        self._program = state_of(_PROGRAM)
        self._description = confinement.describe(os.getpid())
        os.environ.clear()  # a worker gets its client's environment
        self._unprepared = list(reversed(PRELOADED))
        self._rehearsal: Rehearsal | None = None
        self._workers = Workers(self._counts)
        self._rests = False  # there was no layer for `rest_seconds`
        self._is_stale = False  # the waiting workers lack a module or a parsed key that the zygote has now
        self._keepers: dict[bytes, tuple[int, socket.socket]] = {}
        self._started_at = monotonic()
        self._refill_at = self._return_at = self._respawn_at = self._sweep_at = self._check_at = 0.0
        self._signals, wakeup = os.pipe()
        for descriptor in (self._signals, wakeup):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)  # the wakeup descriptor tells `run` about it

    def run(self) -> None:
        events = select.poll()
        for waited_for in (self._notices, self._signals):
            events.register(waited_for, select.POLLIN)
        while self._is_wanted():
            self._fork_workers()
            self._send_away_if_busy()
            if not events.poll(self._milliseconds()):
                self._prepare()
            self._read_notices()
            self._read_signals()
            self._sweep()
            self._rest()
        self._drain(events)

    def _is_wanted(self) -> bool:
        if monotonic() >= self._check_at:
            self._check_at = monotonic() + limits.AGENT_CHECK_SECONDS
            self._write_metrics(is_up=True)
            if not self._is_current() or not self._endpoint.is_current():
                return False
        return bool(self._life) and not self._is_idle()

    def _is_idle(self) -> bool:
        idle = self._settings.idle_seconds
        return bool(idle) and not self._workers.working and monotonic() >= self._workers.active_at + idle

    def _is_current(self) -> bool:
        return state_of(_PROGRAM) == self._program

    def _milliseconds(self) -> float:
        """Return how long to wait for notices and signals, in milliseconds, until the next task is due."""
        if self._has_to_prepare():
            return 0.0
        moments = [self._check_at]
        if self._is_busy():
            moments.append(monotonic() + limits.AGENT_REFILL_SECONDS)
        if self._is_stale or len(self._workers.waiting) < self._spare():
            moments.append(self._fork_at())
        if self._parsed_keys:
            moments.append(self._sweep_at)
        if not self._rests and not self._workers.working:
            moments.append(self._workers.active_at + self._settings.rest_seconds)
        if self._settings.idle_seconds and not self._workers.working:
            moments.append(self._workers.active_at + self._settings.idle_seconds)
        return max(0.0, min(moments) - monotonic()) * 1000 + 1

    def _has_to_prepare(self) -> bool:
        return bool(self._workers.waiting) and (self._rehearsal is None or bool(self._unprepared))

    def _prepare(self) -> None:
        """Import the next module, or rehearse if all are imported: one step, so that clients are served in between."""
        if not self._has_to_prepare():
            return
        if self._unprepared:
            import_module(self._unprepared.pop())
        else:
            from decoder.agent.processes.rehearsal import Rehearsal

            self._rehearsal = Rehearsal()
            self._rehearsal.play()
        self._is_stale |= self._rehearsal is not None and not self._unprepared

    def _send_away_if_busy(self) -> None:
        """Close the connections of waiting clients if no worker may be forked now."""
        if self._is_busy() and (count := self._endpoint.send_away()):
            self._counts.send_away(BUSY, count)

    def _is_busy(self) -> bool:
        return not self._workers.waiting and (self._spare() <= 0 or monotonic() < self._respawn_at)

    def _rest(self) -> None:
        """After a time without layers, replace the waiting workers by one that has not rehearsed, to save memory."""
        rests = not self._workers.working and monotonic() >= self._workers.active_at + self._settings.rest_seconds
        self._is_stale |= rests and not self._rests
        self._rests = rests

    def _sweep(self) -> None:
        if self._parsed_keys and monotonic() >= self._sweep_at:
            self._sweep_at = monotonic() + limits.AGENT_SWEEP_SECONDS
            self._is_stale |= self._parsed_keys.drop_changed()

    # Workers.

    def _spare(self) -> int:
        spare = 1 if self._rests else self._settings.spare
        return min(spare, self._settings.most - len(self._workers.working))

    def _fork_workers(self) -> None:
        if self._is_stale and self._may_fork():
            self._change_shift()
        while len(self._workers.waiting) < self._spare() and self._may_fork():
            try:
                self._workers.add(self._fork(self._be_worker))
            except OSError:  # the limit on processes
                self._respawn_at = monotonic() + limits.AGENT_RESPAWN_SECONDS

    def _may_fork(self) -> bool:
        return monotonic() >= self._fork_at()

    def _fork_at(self) -> float:
        """Return the time at which a worker may be forked, by time.monotonic().

        It is later while another worker is ready, because a fork slows down the layer that has begun. It is also later
        if every processor has a worker, because one of them may finish before a new one could begin.
        """
        if self._workers.waiting:
            return max(self._respawn_at, self._refill_at)
        return max(self._respawn_at, self._return_at if len(self._workers.working) >= self._processors else 0.0)

    def _change_shift(self) -> None:
        """End the waiting workers, unless they have just got a client; new workers replace them."""
        self._shift.end()
        os.close(self._shift.reading)
        self._shift = _Lifeline()
        self._workers.change_shift()
        self._is_stale = False

    def _fork(self, be: Callable[[], NoReturn]) -> int:
        """Fork a child that runs `be`, which does not return, and return the child's process number.

        Raises:
            OSError: no process can be started.
        """
        process = os.fork()
        if process:
            return process
        try:
            self._life.end()  # close the writing ends here, so that the zygote alone decides about the end
            self._shift.end()
            worker.forget_the_zygote()
            be()
        finally:
            os._exit(DecoderError.status)

    def _be_worker(self) -> NoReturn:
        if self._rehearsal and not self._rests and not self._endpoint.has_client():
            worker.rehearse(self._rehearsal)
        worker.work(
            worker.Shift(
                listener=self._endpoint.listener,
                lifeline=self._shift.reading,
                notices=self._notices,
                description=self._description,
                parsed_keys=self._parsed_keys,
                is_current=self._is_current,
            )
        )

    # Notices from workers.

    def _read_notices(self) -> None:
        while notice := self._notices.read():
            kind, content, descriptors = notice
            if kind in ("taken", "served", "away", "returned"):
                self._follow_worker(kind, content)
            elif kind == "parsed":
                self._is_stale |= self._parsed_keys.add(content)
            elif kind == "imported":
                names = content.decode(errors="replace").split()
                self._unprepared += [name for name in names if name in ON_DEMAND and name not in sys.modules]
            elif kind == "outdated":
                self._end_life()
            elif kind == "certificate":
                self._counts.certificates.add(os.fsdecode(content))
            elif descriptors:
                self._pass_on(kind, content, descriptors[0])

    def _pass_on(self, kind: Kind, content: bytes, connection: int) -> None:
        if kind == "keeper":
            return self._hand_to_keeper(content, connection)
        self._workers.settle(int(content), has_asked=True)
        return self._tell_status(connection)

    def _follow_worker(self, kind: Kind, content: bytes) -> None:
        number, _, reason = content.decode(errors="replace").partition(" ")
        process = int(number)
        if kind == "taken":
            self._workers.take(process)
            self._refill_at = monotonic() + limits.AGENT_REFILL_SECONDS
            self._return_at = monotonic() + limits.AGENT_RETURN_SECONDS
        elif kind == "returned":
            self._workers.come_back(process)
        else:
            self._workers.settle(process)
            if kind == "away":
                self._counts.send_away(reason)
            else:
                self._counts.served += 1

    def _tell_status(self, connection: int) -> None:
        status = {
            "pid": os.getpid(),
            "seconds": round(monotonic() - self._started_at, 3),
            "served": self._counts.served,
            "sent_away": self._counts.sent_away,
            "fallen_back": self._counts.fallen_back,
            "decrypting": len(self._workers.working) - 1,  # one of them has asked
            "waiting": len(self._workers.waiting),
            "prepared": self._rehearsal is not None and not self._unprepared and not self._is_stale,
            "idle_seconds": self._settings.idle_seconds,
        }
        with suppress(OSError), socket.socket(fileno=connection) as client:
            client.setblocking(False)
            messages.send(client, status)

    def _write_metrics(self, is_up: bool) -> None:
        numbers = {
            "up": is_up,
            "served_total": self._counts.served,
            "fallen_back_total": self._counts.fallen_back,
            "decrypting": len(self._workers.working),
            "workers_ready": len(self._workers.waiting),
        }
        self._textfile.write(numbers, self._counts.sent_away, self._counts.certificates.ends)

    def _hand_to_keeper(self, identity: bytes, connection: int) -> None:
        try:
            with suppress(OSError):  # no process can be started, or the keeper has just ended
                if identity not in self._keepers and len(self._keepers) < limits.AGENT_KEEPERS:
                    self._keepers[identity] = self._fork_keeper(connection)
                if identity in self._keepers:
                    socket.send_fds(self._keepers[identity][1], [b"c"], [connection])
        finally:
            os.close(connection)  # without a keeper the worker sees the end, and asks the provider itself

    def _fork_keeper(self, connection: int) -> tuple[int, socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def be_keeper() -> NoReturn:
            os.close(connection)  # a copy of the one that comes on `theirs`: the worker must see when that is closed
            self._endpoint.listener.close()
            self._parsed_keys.clear()
            keeper.keep(theirs, self._life.reading, self._settings.kek_seconds)

        with theirs:
            try:
                process = self._fork(be_keeper)
            except OSError:
                ours.close()
                raise
        ours.setblocking(False)
        return process, ours

    # The end of workers, and of the agent.

    def _read_signals(self) -> None:
        try:
            received = os.read(self._signals, 512)
        except BlockingIOError:
            return
        if signal.SIGTERM in received or signal.SIGINT in received:
            self._end_life()
        while ended := self._reap():
            self._read_notices()  # its notices were sent before it ended
            if self._workers.end(ended) and self._life:
                self._respawn_at = monotonic() + limits.AGENT_RESPAWN_SECONDS
            self._keepers = {key: value for key, value in self._keepers.items() if value[0] != ended}

    def _reap(self) -> int:
        try:
            return os.waitpid(-1, os.WNOHANG)[0]
        except ChildProcessError:
            return 0

    def _end_life(self) -> None:
        """Remove the socket, and end the waiting workers and the keepers."""
        self._endpoint.remove()
        self._shift.end()
        self._life.end()

    def _drain(self, events: select.poll) -> None:
        """Wait for the layers that are being decrypted; new clients start another agent."""
        self._end_life()
        self._endpoint.send_away()
        self._endpoint.listener.close()
        while self._workers or self._keepers:
            events.poll()
            self._read_notices()
            self._read_signals()
        self._write_metrics(is_up=False)
