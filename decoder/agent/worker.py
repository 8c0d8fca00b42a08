"""A worker: one layer, decrypted by the program's own code on the descriptors of whoever asked, and then it ends."""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from fcntl import F_SETFL, F_SETOWN, fcntl
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from decoder.agent import messages
from decoder.agent.keeping import KeptByAgent
from decoder.agent.messages import ENDED, READY, STARTED, STREAMS, MessageError

if TYPE_CHECKING:
    from decoder.agent.messages import Request
    from decoder.agent.notices import Notices
    from decoder.agent.parsedkeys import ParsedKeys
    from decoder.agent.rehearsal import Rehearsal
    from decoder.keys.kept import Kept

_PEER = struct.Struct("3i")  # struct ucred, unix(7)
# What decides how paths, addresses and process numbers are understood, below /proc/PID.
_PLACES = ("ns/mnt", "ns/net", "ns/pid", "ns/user", "root")
_LIMITS = (resource.RLIMIT_AS, resource.RLIMIT_DATA, resource.RLIMIT_FSIZE)
# Read when libraries are loaded, which was before a client brought its environment.
_LOADING = ("LD_", "OPENSSL_", "MALLOC_")


class Surroundings(NamedTuple):
    """What a process sees of the machine, and what it may do, as far as decrypting depends on it."""

    places: tuple[tuple[int, int], ...]
    capabilities: str
    limits: tuple[tuple[int, int], ...]
    loading: dict[str, str]


def surroundings(process: int, environment: dict[str, str]) -> Surroundings:
    """Look at a process.

    Raises:
        OSError: it is gone, or not visible from here.
    """
    places = [os.stat(f"/proc/{process}/{name}") for name in _PLACES]
    with open(f"/proc/{process}/status", encoding="ascii", errors="replace") as file:
        capabilities = file.read().partition("\nCapEff:")[2].partition("\n")[0]
    return Surroundings(
        tuple((place.st_dev, place.st_ino) for place in places),
        capabilities,
        tuple(resource.prlimit(process, limit) for limit in _LIMITS),
        {name: value for name, value in environment.items() if name.startswith(_LOADING)},
    )


def work(
    listener: socket.socket,
    lifeline: int,
    notices: Notices,
    ours: Surroundings,
    parsed_keys: ParsedKeys,
    is_current: Callable[[], bool],
) -> NoReturn:
    """Wait for a client, do what it asks for, and end the process.

    Args:
        listener: the agent's socket, which all workers share.
        lifeline: a pipe that ends when this worker is no more wanted.
        notices: for the zygote.
        ours: what a client's surroundings must be like.
        parsed_keys: those of earlier layers.
        is_current: tells whether the program on the disk is still the one that is running.
    """
    connection = _wait_for_client(listener, lifeline)
    if not is_current():
        notices.outdated()
        os._exit(0)  # the client sees the connection end, and runs the program that is there now
    with suppress(MessageError, OSError):  # the same: nothing of its layer has been touched
        client = _client_of(connection)
        messages.send(connection, READY, 0)
        request = messages.receive_request(connection)
        if surroundings(client, request.environment) == ours:
            _serve(connection, request, KeptByAgent(client, parsed_keys, notices), notices)
    notices.taken()  # a worker that has sent its client away is not spare any more either
    os._exit(0)


def rehearse(rehearsal: Rehearsal) -> None:
    """Do once what a client will ask for: memory that is written to then need not be copied while a client waits."""
    from decoder import __main__ as program

    client, connection = socket.socketpair()
    with client, connection:
        messages.send_request(client, rehearsal.request())
        request = messages.receive_request(connection)
    surroundings(os.getpid(), request.environment)
    _become(request)
    program.decode(request.arguments)
    null = os.open(os.devnull, os.O_RDWR)
    for place in set(range(STREAMS)) - {2}:
        os.dup2(null, place)
    os.close(null)


def _wait_for_client(listener: socket.socket, lifeline: int) -> socket.socket:
    with select.epoll() as waiting:
        waiting.register(listener, select.EPOLLIN | select.EPOLLEXCLUSIVE)  # one client wakes one worker
        waiting.register(lifeline, 0)
        while True:
            if any(descriptor == lifeline for descriptor, _ in waiting.poll()):
                os._exit(0)
            with suppress(BlockingIOError, ConnectionAbortedError):
                return listener.accept()[0]


def _client_of(connection: socket.socket) -> int:
    """Return the process number of the client, which must be of our own user."""
    process, user, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    if user != os.geteuid():
        raise MessageError("a client of another user")
    return int(process)


def _serve(connection: socket.socket, request: Request, kept: Kept, notices: Notices) -> None:
    from decoder import __main__ as program

    _end_with(connection)
    _become(request)
    messages.send(connection, STARTED, 0)
    notices.taken()
    status = program.decode(request.arguments, kept)
    messages.send(connection, ENDED, status)
    _let_go()  # after that: whoever reads to the end of the layer would take the processor from the client and from us


def _end_with(connection: socket.socket) -> None:
    """End this process as soon as the client is gone, whatever is being done then.

    The signal alone does not tell: it may come late for the request itself.
    """

    def look(*_: object) -> None:
        end = select.poll()
        end.register(connection, 0)
        if end.poll(0):
            os._exit(0)

    connection.settimeout(None)
    signal.signal(signal.SIGIO, look)
    fcntl(connection, F_SETOWN, os.getpid())
    fcntl(connection, F_SETFL, os.O_ASYNC)
    look()


def _become(request: Request) -> None:
    """Take the client's descriptors, environment and current directory for our own."""
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
    for place in range(STREAMS):
        with suppress(OSError):
            os.close(place)


def forget_the_zygote() -> None:
    """Undo what a child inherits of the zygote's signals, and see to it that SIGIO comes."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGIO])
