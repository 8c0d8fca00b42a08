"""The start of an agent: the first decoder of an image forks it before it reads anything of its layer."""

from __future__ import annotations

import os
from _socket import AF_UNIX, SOCK_SEQPACKET, socketpair  # socket itself would take 10 million instructions of the layer
from fcntl import F_DUPFD_CLOEXEC, fcntl
from importlib import import_module
from typing import TYPE_CHECKING

from decoder import leantyping
from decoder.errors import DecoderError, UsageError, quoted
from decoder.keys.kept import Kept

if TYPE_CHECKING:
    from typing import NoReturn

    from decoder.agent.notices import Notices
    from decoder.keys.kept import Provider

# What a layer needs, imported before the fork, so that both processes have it.
_HOT_PATH = ("decoder.decrypt", "decoder.keywrap.jwe", "decoder.keys.directory")
_STANDARD = 4  # descriptors 0 to 3 are those of the layer
_FIRST_OF_OURS = 10  # as in packaging/client/client.c


class KeptByNewAgent(Kept):
    """The new agent's service to the layer that started it: its keeper asks key services, and stays connected.

    Args:
        writing: the descriptor on which workers send notices to the agent.
    """

    def __init__(self, writing: int) -> None:
        self._writing = writing
        self._notices: Notices | None = None

    def ask(self, provider: Provider, operation: str, data: bytes, parameters: list[bytes]) -> bytes | None:
        """Ask a provider through the new agent's keeper; see `Kept.ask`."""
        from decoder.agent.notices import Notices
        from decoder.agent.processes.keeping import ask_keeper

        self._notices = self._notices or Notices(writing=self._writing)
        return ask_keeper(self._notices, provider, operation, data, parameters)


def leave_agent(place: str) -> Kept:
    """Fork an agent for later layers. If no process can be started, this layer is decrypted all the same.

    Args:
        place: LISTENER,DIRECTORY,NAME: the descriptor of the agent's socket, that of the socket's directory, and the
            socket's name there, as packaging/client/client.c passes them. Both descriptors are closed in this process.

    Returns:
        The way for this layer to use the new agent.

    Raises:
        UsageError: `place` has another form.
    """
    listener, directory, name = _parse(place)
    for module in _HOT_PATH:
        import_module(module)
    reading, writing = _notices()
    try:
        process = os.fork()
    except OSError:  # at the limit on processes an agent could not fork workers either
        process = -1
    if process == 0:
        _be_agent(listener, directory, name, (reading, writing))
    for descriptor in (listener, directory, reading):
        os.close(descriptor)
    return KeptByNewAgent(writing)


def _notices() -> tuple[int, int]:
    """Create the channel to the agent, on descriptors above those of a layer."""
    ends = []
    for end in socketpair(AF_UNIX, SOCK_SEQPACKET):
        ends.append(fcntl(end.fileno(), F_DUPFD_CLOEXEC, _FIRST_OF_OURS))
        end.close()
    return ends[0], ends[1]


def _parse(place: str) -> tuple[int, int, str]:
    try:
        listener, directory, name = place.split(",")
        return int(listener), int(directory), name
    except ValueError as error:
        raise UsageError(f"unexpected value {quoted(place)}: only the client of the packages passes it") from error


def _be_agent(listener: int, directory: int, name: str, notices: tuple[int, int]) -> NoReturn:
    """Detach this process from the layer, its client and containerd, and serve."""
    try:
        leantyping.load()
        environment = dict(os.environ)
        _close_all_but(listener, directory, *notices)
        _detach()
        import socket

        from decoder.agent.endpoint import Endpoint
        from decoder.agent.notices import Notices
        from decoder.agent.processes import zygote
        from decoder.agent.settings import read_settings

        endpoint = Endpoint(socket.socket(fileno=listener), directory, name)
        zygote.serve(endpoint, read_settings(environment), Notices(*notices))
    except BaseException as error:  # noqa: BLE001 - it would be lost otherwise
        from decoder import failure
        from decoder.node import journal

        journal.warn(f"the agent ended: {failure.message(error)}")
    finally:
        os._exit(DecoderError.status)


def _close_all_but(*kept: int) -> None:
    """Close every descriptor; containerd waits until some of them are closed."""
    from contextlib import suppress

    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(_STANDARD):
        os.dup2(null, descriptor)
    for entry in os.listdir("/proc/self/fd"):
        if int(entry) >= _STANDARD and int(entry) not in kept:
            with suppress(OSError):
                os.close(int(entry))
    for descriptor in kept:
        os.set_inheritable(descriptor, False)


def _detach() -> None:
    """Leave the session, directory, umask, signals and OOM score of the process that forked this one."""
    import signal
    from contextlib import suppress

    os.setsid()
    os.chdir("/")
    os.umask(0o077)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN if number == signal.SIGPIPE else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    raise_oom_score()
    os.environ.clear()
    _erase_environment()


def raise_oom_score(path: str = "/proc/self/oom_score_adj") -> None:
    """Reset the OOM score, because containerd's children inherit its protection (OOMScoreAdjust=-999)."""
    from contextlib import suppress

    with suppress(OSError, ValueError):
        with open(path, encoding="ascii") as file:
            score = int(file.read())
        if score < 0:
            with open(path, "w", encoding="ascii") as file:
                file.write("0")


def _erase_environment() -> None:
    """Overwrite the first client's environment and command line in memory, which ps(1) would show."""
    from contextlib import suppress

    with suppress(OSError, ValueError, IndexError):
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        arguments, end_of_arguments, environment, end_of_environment = map(int, fields[45:49])  # proc(5): 48 to 51
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(environment)
            memory.write(bytes(end_of_environment - environment))
            memory.seek(arguments)
            length = end_of_arguments - arguments
            memory.write(b"ctd-decoder agent".ljust(length, b"\0")[:length])
