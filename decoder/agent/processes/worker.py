"""A worker: it decrypts layers with the program's own code on the descriptors of its clients, one after another.

A process for each layer would cost 2.5 times the processor time. So a worker serves up to AGENT_LAYERS_OF_A_WORKER
layers, as long as they follow soon and each has left nothing behind but freed memory.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal would convert all that it returns to enumerations
import os
import select
import socket
import struct
import sys
from contextlib import suppress
from fcntl import F_SETFL, F_SETOWN, fcntl
from time import sleep
from typing import TYPE_CHECKING

from decoder import limits
from decoder.agent import confinement, messages
from decoder.agent.messages import ENDED, READY, STARTED, STREAMS, MessageError, RefusedError
from decoder.agent.processes.keeping import KeptByAgent
from decoder.agent.processes.preloading import ON_DEMAND, ONE_LAYER
from decoder.node.ending import hold_standard_output
from decoder.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from decoder.agent.messages import Request
    from decoder.agent.notices import Notices
    from decoder.agent.processes.parsedkeys import ParsedKeys
    from decoder.agent.processes.rehearsal import Rehearsal
    from decoder.keys.kept import Kept

_PEER = struct.Struct("3i")  # struct ucred, unix(7)


class Shift(Record):
    """What a worker gets from the zygote.

    Attributes:
        listener: the agent's socket, which all workers share.
        lifeline: the reading end of a pipe that closes when a worker without a client is no longer needed.
        notices: the channel to the zygote.
        description: the description that a client must have too (`confinement.describe`).
        parsed_keys: the parsed keys of earlier layers.
        is_current: checks whether the program on the disk is still the one that is running.
    """

    listener: socket.socket
    lifeline: int
    notices: Notices
    description: list[str]
    parsed_keys: ParsedKeys
    is_current: Callable[[], bool]


def work(shift: Shift) -> NoReturn:
    """Wait for a client, decrypt its layer, wait a little for further ones, and end the process."""
    traces, layers, seconds = _Traces(), 0, None
    while (connection := _wait_for_client(shift, seconds)) and _is_served(connection, shift):
        layers += 1
        if layers == limits.AGENT_LAYERS_OF_A_WORKER or traces.are_left():
            break
        shift.notices.returned()
        seconds = limits.AGENT_NEXT_LAYER_SECONDS
    os._exit(0)


def rehearse(rehearsal: Rehearsal) -> None:
    """Decrypt the sample layer once, so that shared memory pages are copied before a client waits."""
    from decoder import __main__ as program

    client, connection = socket.socketpair()
    with client, connection:
        messages.send_request(client, rehearsal.request())
        request = messages.receive_request(connection)
    assert request is not None  # noqa: S101 - it is our own
    confinement.describe(os.getpid())
    _become(request)
    program.decode(request.arguments)
    _let_go()


def _wait_for_client(shift: Shift, seconds: float | None = None) -> socket.socket | None:
    """Return the connection of the next client; None if none comes in time, or if the shift ends."""
    with select.epoll() as waiting:
        waiting.register(shift.listener, select.EPOLLIN | select.EPOLLEXCLUSIVE)  # one client wakes one worker
        waiting.register(shift.lifeline, 0)  # only its end is reported
        while ready := waiting.poll(seconds):
            if any(descriptor == shift.lifeline for descriptor, _ in ready):
                break
            with suppress(BlockingIOError, ConnectionAbortedError):
                return shift.listener.accept()[0]
    return None


def _is_served(connection: socket.socket, shift: Shift) -> bool:
    """Answer one client; return whether its layer was decrypted and nothing else happened."""
    with connection, suppress(MessageError, OSError):  # its layer is untouched then
        if shift.is_current():
            return _answer(connection, shift) == 0
        shift.notices.outdated()  # the client sees the connection end, and runs the new program
    return False


def _answer(connection: socket.socket, shift: Shift) -> int | None:
    """Decrypt the client's layer, and return the exit status; or report to the zygote why not, and return None.

    Raises:
        MessageError: the client violates the protocol.
        OSError: the client is gone.
    """
    client = _client_of(connection)
    messages.send(connection, READY, 0)
    shift.notices.taken()
    try:
        request = messages.receive_request(connection)
    except RefusedError as error:
        shift.notices.sent_away(confinement.property_of(str(error)))
        return None
    if request is None:
        shift.notices.want_status(connection)
    elif difference := confinement.first_difference(shift.description, confinement.describe(client)):
        # The client has compared, too, before it sent its descriptors: neither side relies on the other.
        shift.notices.sent_away(difference)
    else:
        return _serve(connection, request, KeptByAgent(client, shift.parsed_keys, shift.notices), shift.notices)
    return None


def _client_of(connection: socket.socket) -> int:
    """Return the client's process number.

    Raises:
        MessageError: the client runs as another user.
    """
    process, user, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    if user != os.geteuid():
        raise MessageError("a client of another user")
    return int(process)


def _serve(connection: socket.socket, request: Request, kept: Kept, notices: Notices) -> int:
    from decoder import __main__ as program

    _end_with(connection, kept.client)
    _become(request)
    messages.send(connection, STARTED, 0)
    notices.served()
    absent = [module for module in ON_DEMAND if module not in sys.modules]
    status = program.decode(request.arguments, kept)
    _signal.signal(_signal.SIGIO, _signal.SIG_IGN)  # the client ends when it has the status
    messages.send(connection, ENDED, status)
    if status:
        hold_standard_output(kept.client)  # the client holds it too, unless it cannot start a process
    _let_go()  # only now: the end of the layer wakes its reader, which would compete with the client for the processor
    if new := [module for module in absent if module in sys.modules]:
        notices.imported(new)
    return status


def _end_with(connection: socket.socket, client: int) -> None:
    """End this process as soon as the client is gone, at any point of its work.

    SIGIO alone does not mean that, because a signal for the request itself may be late; so poll the connection, too.
    """

    def look(*_: object) -> None:
        end = select.poll()
        end.register(connection, 0)  # only its end is reported
        if end.poll(0):
            hold_standard_output(client)  # containerd must see that the client failed before it sees the layer's end
            os._exit(0)

    connection.settimeout(None)
    _signal.signal(_signal.SIGIO, look)
    fcntl(connection, F_SETOWN, os.getpid())
    fcntl(connection, F_SETFL, os.O_ASYNC)
    look()


def _become(request: Request) -> None:
    """Adopt the client's descriptors, environment and current directory."""
    os.fchdir(request.directory)
    os.close(request.directory)
    for place in range(STREAMS):
        if place in request.streams:
            os.dup2(request.streams[place], place)
            os.close(request.streams[place])
        else:
            with suppress(OSError):
                os.close(place)
    os.environ.clear()
    os.environ.update(request.environment)


def _let_go() -> None:
    """Close the layer's descriptors, and occupy their numbers, so that no other file of ours gets one of them."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for place in range(STREAMS):
        if place != null:
            os.dup2(null, place)
    if null >= STREAMS:
        os.close(null)


class _Traces:
    """The state of the process before a layer, to find out what the layer leaves behind."""

    def __init__(self) -> None:
        self._before = self._look()

    def are_left(self) -> bool:
        """Check for new modules, descriptors, threads and children, and for modules that keep state."""
        keeps = not sys.modules.keys().isdisjoint(ONE_LAYER)
        return keeps or self._look() != self._before or _has_threads() or _has_children()

    def _look(self) -> tuple[int, list[str]]:
        return len(sys.modules), os.listdir("/proc/self/fd")


def _has_threads() -> bool:
    """Check for threads; one that was joined may need a moment to end."""
    for _ in range(limits.AGENT_THREAD_POLLS):
        if len(os.listdir("/proc/self/task")) == 1:
            return False
        sleep(limits.AGENT_THREAD_POLL_SECONDS)
    return True


def _has_children() -> bool:
    with suppress(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)  # fails only if there is no child, running or ended
        return True
    return False


def forget_the_zygote() -> None:
    """Reset the signal handling inherited from the zygote, and enable SIGIO."""
    _signal.set_wakeup_fd(-1)
    for number in (_signal.SIGTERM, _signal.SIGCHLD):
        _signal.signal(number, _signal.SIG_DFL)
    _signal.signal(_signal.SIGINT, _signal.default_int_handler)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [_signal.SIGIO])
