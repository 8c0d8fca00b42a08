"""A keyprovider that is a command: it gets the request on standard input, and replies on standard output."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from contextlib import ExitStack, suppress
from time import monotonic
from typing import TYPE_CHECKING

from decoder import limits
from decoder.errors import quoted
from decoder.provider.errors import ProviderError, excerpt
from decoder.record import Record

if TYPE_CHECKING:
    from decoder.provider.client.config import CommandProvider


class _Identity(Record):
    """The user, groups and environment that a command runs with; None for those of this process."""

    user: int | None = None
    group: int | None = None
    groups: list[int] | None = None
    environment: dict[str, str] | None = None


class _Output:
    """The output from one pipe, at most PROVIDER_MESSAGE_BYTES."""

    def __init__(self, name: str) -> None:
        self.data = bytearray()
        self._name = name

    def read(self, descriptor: int) -> bool:
        """Read what is available; return False at the end.

        Raises:
            ProviderError: the output is longer than PROVIDER_MESSAGE_BYTES.
        """
        chunk = os.read(descriptor, limits.SMALL_PIPE_BUFFER_BYTES)
        self.data += chunk
        if len(self.data) > limits.PROVIDER_MESSAGE_BYTES:
            raise ProviderError(f"it wrote more than {limits.PROVIDER_MESSAGE_BYTES} bytes to {self._name}")
        return bool(chunk)


def ask(command: CommandProvider, request: bytes, seconds: float) -> bytes:
    """Run the command for one request. When this returns, the command and its process group have ended.

    Args:
        command: the program, its arguments and its user.
        request: the standard input, which the command need not read to its end.
        seconds: how long it may take.

    Returns:
        Its standard output, at most PROVIDER_MESSAGE_BYTES.

    Raises:
        ProviderError: the command cannot be started, does not end in time, fails, or writes nothing or too much. The
            text has the end of its standard error.
    """
    output, errors = _Output("standard output"), _Output("standard error")
    process = _start(command)
    try:
        _converse(process, request, (output, errors), seconds)
    except ProviderError as error:
        raise ProviderError(f"{error}{_says(errors)}") from error
    finally:
        status = _end(process)
    if status != 0:
        raise ProviderError(f"{_ending(status)}{_says(errors)}")
    if not output.data.strip():
        raise ProviderError(f"it ended without a reply{_says(errors)}")
    return bytes(output.data)


def _start(command: CommandProvider) -> subprocess.Popen[bytes]:
    identity = _identity(command.user)
    environment = command.environment
    if environment is None and identity.environment is not None:
        environment = {**os.environ, **identity.environment}
    try:
        return subprocess.Popen(  # noqa: S603 - running what the operator configured is the purpose
            [command.path, *command.args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            user=identity.user,
            group=identity.group,
            extra_groups=identity.groups,
            start_new_session=True,
            bufsize=0,
        )
    except OSError as error:
        as_whom = f" as the user {quoted(command.user)}" if command.user else ""
        hint = ""
        if isinstance(error, FileNotFoundError) and os.path.exists(command.path):
            hint = " (the interpreter that its first line names)"
        raise ProviderError(f"it cannot be started{as_whom}: {error.strerror}{hint}") from error


def _identity(user: str) -> _Identity:
    """Look up a user: its groups, and its home directory, where clients of key services keep credentials."""
    if not user:
        return _Identity()
    import pwd

    try:
        entry = pwd.getpwnam(user)
    except KeyError as error:
        raise ProviderError(f"there is no user {quoted(user)} to run it as") from error
    if os.geteuid() not in (0, entry.pw_uid):
        raise ProviderError(f"only root can run it as the user {quoted(user)}")
    environment = {"HOME": entry.pw_dir, "USER": user, "LOGNAME": user}
    if os.geteuid() != 0:
        return _Identity(environment=environment)
    return _Identity(entry.pw_uid, entry.pw_gid, os.getgrouplist(user, entry.pw_gid), environment)


def _converse(
    process: subprocess.Popen[bytes], request: bytes, outputs: tuple[_Output, _Output], seconds: float
) -> None:
    """Write and read the pipes until the process has ended and its output is closed.

    Descendants that still hold the output open get PROVIDER_DRAIN_SECONDS.
    """
    deadline = monotonic() + seconds
    with _Pipes(process, request, outputs) as pipes:
        while pipes.running or pipes.reading:
            if not pipes.serve(max(0.0, deadline - monotonic())):
                if pipes.running:
                    raise ProviderError(f"it did not end within {seconds:g} seconds")
                return
            if not pipes.running:
                deadline = min(deadline, pipes.ended_at + limits.PROVIDER_DRAIN_SECONDS)


class _Pipes:
    """The three pipes of a process, and its end: everything that poll(2) waits for."""

    def __init__(self, process: subprocess.Popen[bytes], request: bytes, outputs: tuple[_Output, _Output]) -> None:
        assert process.stdin is not None  # noqa: S101 - all three were asked for
        assert process.stdout is not None  # noqa: S101
        assert process.stderr is not None  # noqa: S101
        self._open = ExitStack()
        for pipe in (process.stdin, process.stdout, process.stderr):
            self._open.enter_context(pipe)
        self._process = os.pidfd_open(process.pid)
        self._open.callback(os.close, self._process)
        self._stdin = process.stdin
        os.set_blocking(self._stdin.fileno(), False)
        self._unsent = memoryview(request)
        self.reading = {process.stdout.fileno(): outputs[0], process.stderr.fileno(): outputs[1]}
        self.running = True
        self.ended_at = 0.0
        self._poll = select.poll()
        self._poll.register(self._stdin, select.POLLOUT)
        for descriptor in (*self.reading, self._process):
            self._poll.register(descriptor, select.POLLIN)

    def __enter__(self) -> _Pipes:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def serve(self, seconds: float) -> bool:
        """Wait for the next event and handle it; return False if there was none in time."""
        events = self._poll.poll(seconds * 1000)
        for descriptor, _ in events:
            if descriptor in self.reading:
                if not self.reading[descriptor].read(descriptor):
                    self._poll.unregister(descriptor)
                    del self.reading[descriptor]
            elif descriptor == self._process:
                self._poll.unregister(descriptor)
                self.running, self.ended_at = False, monotonic()
            else:
                self._unsent = _send(descriptor, self._unsent)
                if not self._unsent:
                    self._poll.unregister(descriptor)
                    self._stdin.close()
        return bool(events)


def _send(descriptor: int, unsent: memoryview) -> memoryview:
    """Write as much as the pipe takes, and return the rest, which is empty if nobody reads the pipe."""
    try:
        return unsent[os.write(descriptor, unsent) :]
    except BrokenPipeError:
        return unsent[:0]


def _end(process: subprocess.Popen[bytes]) -> int | None:
    """Kill the process group and return the command's status; if it had ended before, that is its own status."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):  # a process inside a driver can be neither killed nor waited for
        process.wait(limits.PROVIDER_REAP_SECONDS)
    return process.returncode


def _ending(status: int | None) -> str:
    if status is None:
        return "it cannot be killed"
    if status < 0:
        return f"it was killed by {signal.Signals(-status).name}"
    return f"it ended with status {status}"


def _says(errors: _Output) -> str:
    said = errors.data.decode(errors="replace").strip()
    return f", saying {excerpt(said)}" if said else ""
