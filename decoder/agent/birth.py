"""How the first decoder of an image leaves an agent behind: it forks one before it reads anything of its layer."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING

from decoder.errors import DecoderError, UsageError, quoted

if TYPE_CHECKING:
    from typing import NoReturn

# What a layer needs, imported before the fork, so that both processes have it.
_HOT_PATH = ("decoder.decrypt", "decoder.keywrap.jwe", "decoder.keys.directory")
_STANDARD = 4  # descriptors 0 to 3 are those of the layer


def leave_agent(place: str) -> None:
    """Fork an agent for later layers; if that fails, this layer is decrypted all the same.

    Args:
        place: LISTENER,DIRECTORY,NAME: descriptors of the agent's socket and of its directory, and its name there, as
            packaging/client/client.c passes them. Both descriptors are closed in this process.

    Raises:
        UsageError: it is something else.
    """
    listener, directory, name = _parse(place)
    for module in _HOT_PATH:
        import_module(module)
    with suppress(OSError):
        if os.fork() == 0:
            _be_agent(listener, directory, name)
    os.close(listener)
    os.close(directory)


def _parse(place: str) -> tuple[int, int, str]:
    try:
        listener, directory, name = place.split(",")
        return int(listener), int(directory), name
    except ValueError as error:
        raise UsageError(f"unexpected value {quoted(place)}: only the client of the packages passes it") from error


def _be_agent(listener: int, directory: int, name: str) -> NoReturn:
    """Become a process that has nothing of the layer, of its client and of containerd, and serve."""
    try:
        environment = dict(os.environ)
        _close_all_but(listener, directory)
        _detach()
        import socket

        from decoder.agent.endpoint import Endpoint
        from decoder.agent.processes import zygote
        from decoder.agent.settings import read_settings

        zygote.serve(Endpoint(socket.socket(fileno=listener), directory, name), read_settings(environment))
    except BaseException as error:  # noqa: BLE001 - nobody else would hear of it
        from decoder import failure
        from decoder.node import journal

        journal.warn(f"the agent ended: {failure.internal_error(error)}")
    finally:
        os._exit(DecoderError.status)


def _close_all_but(*kept: int) -> None:
    """Give up every descriptor; containerd waits for the end of some of them."""
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
    """Leave the session, directory, umask, signals and OOM score of the process that we were forked from."""
    import signal

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
    """Undo that containerd is the last process that the kernel would kill (OOMScoreAdjust=-999)."""
    with suppress(OSError, ValueError):
        with open(path, encoding="ascii") as file:
            score = int(file.read())
        if score < 0:
            with open(path, "w", encoding="ascii") as file:
                file.write("0")


def _erase_environment() -> None:
    """Overwrite what execve(2) left of the first client's environment and command line, which ps(1) would show."""
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
