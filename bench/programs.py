"""The decoders that are compared, as users have them with nothing switched on, and how programs are run."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryFile
from typing import NamedTuple

from bench import process

MIB, GIB = 1024 * 1024, 1024 * 1024 * 1024
SECONDS = 120.0  # for a server to start or to end
ROOT = Path(__file__).parent.parent
IMGCRYPT = ROOT / ".cache/imgcrypt/usr"  # where tests/install-system-packages unpacks the reference program
PACKAGE_TREE = ROOT / ".cache/bench/package/usr"  # where bench/install unpacks ours
PIP_PROGRAM = Path(sys.executable).with_name("ctd-decoder")
# PACKAGE and PIP start without an agent in each turn. Warm is the same program in the next turn, which finds an agent.
REFERENCE, PACKAGE, WARM, PIP, PIP_WARM = "reference", "package", "package, warm", "pip", "pip, warm"
PROGRAMS = {
    REFERENCE: IMGCRYPT / "bin/ctd-decoder",
    **dict.fromkeys((PACKAGE, WARM), PACKAGE_TREE / "bin/ctd-decoder"),
    **dict.fromkeys((PIP, PIP_WARM), ROOT / ".cache/bench/pip/bin/ctd-decoder"),
}


class RunError(Exception):
    """A program failed, or wrote something other than the plaintext."""


class Bench(NamedTuple):
    """What is measured: the decoders by name, the largest layer in bytes, and how often they take turns."""

    programs: Mapping[str, Path]
    largest: int
    rounds: int

    def turns(self, every: int) -> int:
        """Return how often they take turns if that is in every second round, every third, and so on; at least once."""
        return -(-self.rounds // every)


class Run(NamedTuple):
    """A run: what was written to stderr, times in seconds, and the peak memory of the largest process in bytes."""

    said: str
    wall: float
    cpu: float
    peak: float


class Layer(NamedTuple):
    """A layer of `size` bytes: its payload, the SHA-256 of its plaintext, and variables that the decoder needs."""

    size: int
    payload: bytes
    plain_sha256: str
    environment: Mapping[str, str] = {}


def run(program: Path, layer: Layer, *arguments: str, check_bytes: bool = False, copies: int = 1) -> Run:
    """Decrypt a layer.

    Args:
        program: the decoder.
        layer: what to decrypt.
        arguments: the program's command line.
        check_bytes: compare the SHA-256 of the plaintext, which takes time; otherwise only its length.
        copies: how many decoders run at once, each on a layer of its own.

    Raises:
        RunError: the exit status is not 0, or the plaintext is not that of the layer.
    """
    script = [sys.executable, "-IS", process.__file__]
    options = [str(layer.size), str(copies), layer.plain_sha256 if check_bytes else ""]
    command, environment = [*script, *options, str(program), *arguments], {**os.environ, **layer.environment}
    with TemporaryFile("w+") as errors:  # a file, because an agent that stays behind could hold a pipe open
        done = subprocess.run(
            command, input=layer.payload, stdout=subprocess.PIPE, stderr=errors, env=environment, check=False
        )
        errors.seek(0)
        said = errors.read()
    if done.returncode:
        raise RunError(f"{program}: {said.strip() or f'ended by signal {-done.returncode}'}")
    return Run(said, *map(float, done.stdout.split()))


@contextmanager
def serving(
    command: Sequence[object], text: str, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run a server; yield its process, and what follows `text` in its output once it has written that.

    Raises:
        RunError: it ends, or writes no such text within SECONDS.
    """
    with NamedTemporaryFile() as log:
        server = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd="/"
        )
        deadline = time.monotonic() + SECONDS
        try:
            while text not in (written := Path(log.name).read_text()) or not written.endswith("\n"):
                if server.poll() is not None or time.monotonic() > deadline:
                    raise RunError(f"{command[0]} did not start: {written}")
                time.sleep(0.02)
            yield server, written.partition(text)[2]
        finally:
            server.kill()
            server.wait()


def children(pid: int) -> list[int]:
    """List the processes that a process has started and that have not ended."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def stop_agent() -> None:
    """End the agents that earlier layers have left behind."""
    subprocess.run([PROGRAMS[PACKAGE], "agent", "stop"], capture_output=True, check=False)
