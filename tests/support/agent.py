"""A running agent, the client that asks it, and what the client becomes without it."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from tests.support.layers import Layer, encrypted, pem, rsa_key
from tests.support.processes import PROGRAM, ROOT, payload_bytes
from tests.support.program import PLAINTEXT, run_layer

_SOURCE = ROOT / "packaging/client/client.c"
SECONDS = 20.0

# What the client runs without the agent: it tells that it did.
_FALLBACK = """\
#!/bin/sh
echo >>{note}
exec {program} "$@"
"""


class Place:
    """A directory with a client, built for the socket in it.

    The path of a socket must be short, so it is not one of pytest's.
    """

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="agent-"))
        self.socket = self.directory / "socket"
        self.client = str(self.directory / "client")
        self._note = self.directory / "note"
        fallback = self.directory / "fallback"
        fallback.write_text(_FALLBACK.format(note=self._note, program=shlex.quote(PROGRAM)))
        fallback.chmod(0o755)
        defines = [f'-DAGENT_SOCKET="{self.socket}"', f'-DPROGRAM="{fallback}"']
        warnings = ["-Wall", "-Wextra", "-Werror"]
        command = ["cc", "-O2", "-static", *warnings, *defines, "-o", self.client, str(_SOURCE)]
        subprocess.run(command, check=True, timeout=60)

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
        arguments: further ones for it.
        command: what is started instead of the installed program.
    """

    def __init__(self, place: Place, *arguments: str, command: tuple[str, ...] = (PROGRAM,)) -> None:
        self._place = place
        self._command = [*command, "agent", "--listen", str(place.socket), *arguments]
        self._log = place.directory / "log"
        self.expected = ""  # what it says by itself

    def __enter__(self) -> Agent:
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stderr=log)
        wait_until(lambda: self._place.socket.exists() and len(self.children) > 0, self._says)
        return self

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
            assert self.expected == self._says()

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
            os.kill(process, number)


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
