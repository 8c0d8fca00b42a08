"""Start an agent and its native client, and run the client without an agent."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from decoder import limits
from decoder.agent import status
from tests.support.keywrap.layers import Layer, encrypted, pem, rsa_key
from tests.support.program import client_program
from tests.support.program.onelayer import PLAINTEXT, run_layer
from tests.support.program.processes import PROGRAM, payload_bytes

if TYPE_CHECKING:
    from decoder.agent.status import Status

SECONDS = 120.0

# What the client runs without the agent: it tells that it did.
_FALLBACK = """\
#!/bin/sh
echo >>{note}
exec {program} "$@"
"""


# An agent in the foreground: in its place, with the settings that a test wants, and without a client that starts it.
_SERVE = """\
import fcntl, os, socket, sys
from decoder.agent.processes import zygote
from decoder.agent.endpoint import Endpoint
from decoder.agent.notices import Notices
from decoder.agent.settings import Settings
while os.open(os.devnull, os.O_RDWR) < 12:
    pass
path, *values = sys.argv[1:]
made = socket.socket(socket.AF_UNIX)
os.umask(0o177)
made.bind(path)
made.listen()
listener = socket.socket(fileno=fcntl.fcntl(made, fcntl.F_DUPFD_CLOEXEC, 10))
made.close()
directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
numbers = (float(values[0]), int(values[1]), int(values[2]), float(values[3]), float(values[4]))
settings = Settings(*numbers, values[5])
zygote.serve(Endpoint(listener, directory, os.path.basename(path)), settings, Notices())
"""


# What an agent may run first (`before`): whenever one of its processes imports the module, a file notes it.
NOTING = """
import sys

class Noting:
    @staticmethod
    def find_spec(name, *_):
        if name == {module!r}:
            with open({record!r}, "a") as record:
                record.write(name + "\\n")

sys.meta_path.insert(0, Noting)
"""


class Place:
    """A directory with a client, built for the socket in it.

    It is in /run, because an agent's socket is never below /tmp.

    Args:
        starts: whether the client starts an agent where there is none.
        ready_milliseconds: how long it waits for a worker.
    """

    def __init__(self, starts: bool = False, ready_milliseconds: int = 60_000) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="ctd-decoder-test-", dir="/run"))
        self.socket = self.directory / "ctd-decoder/agent.sock"
        self.socket.parent.mkdir(mode=0o700)
        self._note = self.directory / "note"
        fallback = self.directory / "fallback"
        fallback.write_text(_FALLBACK.format(note=self._note, program=shlex.quote(PROGRAM)))
        fallback.chmod(0o755)
        self.client = str(client_program.build(self.directory, self.socket.name, starts, ready_milliseconds))

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.directory)

    @property
    def fallbacks(self) -> int:
        """How often the client has run the program without the agent."""
        return len(self._note.read_text()) if self._note.exists() else 0


class Agent:
    """An agent that listens in a place while the context is open; nothing of it is left afterwards.

    Args:
        place: where.
        idle: when it ends by itself, in seconds; 0 for never.
        most: how many layers it decrypts at a time.
        kek: how long it keeps opened key-encryption keys, in seconds.
        rest: after how long without a layer it gives up memory, in seconds.
        metrics: the directory for its file of metrics.
        before: Python that it runs first.
    """

    def __init__(  # noqa: PLR0913 - each test has one or two of them
        self,
        place: Place,
        *,
        idle: float = 0.0,
        most: int = limits.AGENT_WORKERS,
        kek: float = limits.KEK_SECONDS,
        rest: float = 1e6,
        metrics: str = "",
        before: str = "",
    ) -> None:
        self._place = place
        values = [
            str(place.socket),
            str(idle),
            str(limits.AGENT_SPARE_WORKERS),
            str(most),
            str(kek),
            str(rest),
            metrics,
        ]
        self._command = [sys.executable, "-P", "-c", before + _SERVE, *values]
        self._log = place.directory / "log"

    def __enter__(self) -> Agent:
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stderr=log)
        wait_until(self.is_prepared, self._says)
        return self

    def is_prepared(self) -> bool:
        """Tell whether it has imported everything, and its workers too."""
        assert self.process.poll() is None, self._says()
        asked = self.status()
        return asked is not None and asked.prepared

    def status(self) -> Status | None:
        """Ask it how it is."""
        return status.ask(self._place.socket)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        try:
            self.process.wait(SECONDS)
        finally:
            kill(self.process.pid, *self.children)
            self.process.wait()
        if kind is None:
            assert self._says() == ""

    def _says(self) -> str:
        return self._log.read_text()

    @property
    def children(self) -> list[int]:
        """The processes that it has forked and that have not been waited for."""
        return children_of(self.process.pid)


class Running:
    """A decoder that got a payload, and gets its layer from us, a part at a time."""

    def __init__(self, program: str, layer: Layer, *arguments: str) -> None:
        reading, writing = os.pipe()
        os.write(writing, payload_bytes(layer.descriptor, {"privkeys": [pem(rsa_key())]}))
        os.close(writing)
        command = ["/bin/bash", "-c", f'exec "$0" "$@" 3<&{reading} {reading}<&-', program, *arguments]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, pass_fds=[reading], bufsize=0)
        os.close(reading)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout

    def finish(self, rest: bytes) -> tuple[int, int, str]:
        """Feed the rest, and return the exit status, how much plaintext was still to read, and the messages."""
        plaintext, errors = self.process.communicate(rest, timeout=SECONDS)
        return self.process.returncode, len(plaintext), errors.decode()


def children_of(process: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def worker_of(agent: Agent, client: int) -> int:
    """Find the worker of a client: the one that has its standard input."""
    pipe = os.readlink(f"/proc/{client}/fd/0")
    found: list[int] = []

    def find() -> bool:
        found[:] = [child for child in agent.children if _reads(child) == pipe]
        return bool(found)

    wait_until(find)
    return found[0]


def _reads(process: int) -> str:
    try:
        return os.readlink(f"/proc/{process}/fd/0")
    except OSError:
        return ""


def is_running(process: int) -> bool:
    """Tell whether a process is there and has not ended."""
    return state_of(process) not in ("", "Z")


def state_of(process: int) -> str:
    """Return the letter of proc(5) for a process's state, or nothing if it is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def kill(*processes: int, number: int = signal.SIGKILL) -> None:
    for process in processes:
        if is_running(process):
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(process, number)


def kill_agent(process: int) -> None:
    """Kill an agent, and wait until its workers have ended, too: until then, they serve clients."""
    kill(process, number=signal.SIGSTOP)
    wait_until(lambda: state_of(process) == "T")  # it makes no more workers
    processes = [process, *children_of(process)]
    kill(process)
    wait_until(lambda: not any(map(is_running, processes)))


def wait_until(condition: Callable[[], bool], explain: Callable[[], str] = str, seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.005)


MIB = 1024 * 1024


OTHER_USER = 65534


def works(place: Place) -> bool:
    """Decrypt a layer, and tell whether the agent did."""
    before = place.fallbacks
    assert run_layer(encrypted(PLAINTEXT), program=place.client) == (0, PLAINTEXT, "")
    return place.fallbacks == before


def begin(program: str) -> tuple[Running, bytes]:
    """Start on a layer of 4 MiB, feed some of it, and wait for the first plaintext."""
    layer = encrypted(os.urandom(4 * MIB))
    running = Running(program, layer)
    fed = running.stdin.write(layer.ciphertext[:MIB])  # pipes of 1 MiB take that much, and so much is read
    assert running.stdout.read(1) == layer.plaintext[:1]
    assert fed
    return running, layer.ciphertext[fed:]
