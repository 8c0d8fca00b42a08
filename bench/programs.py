"""The decoders that are compared, as users have them with nothing switched on, and how programs are run and timed."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
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

    def third(self) -> int:
        """Return how often they take turns with what takes longer."""
        return -(-self.rounds // 3)


class Run(NamedTuple):
    """What a run took: times in seconds; the peak memory of the largest process in bytes."""

    wall: float
    cpu: float
    peak: int


class Layer(NamedTuple):
    """A layer of `size` bytes: its payload, the SHA-256 of its plaintext, and variables that the decoder needs."""

    size: int
    payload: bytes
    plain_sha256: str
    environment: Mapping[str, str] = {}


def run(program: Path, layer: Layer, *arguments: str, check_bytes: bool = False, copies: int = 1) -> Run:
    """Decrypt a layer; the pipes are ready and full before the clock starts.

    Args:
        program: the decoder.
        layer: what to decrypt.
        arguments: the program's command line.
        check_bytes: compare the SHA-256 of the plaintext, which takes time; otherwise only its length.
        copies: how many decoders run at once, each on a layer of its own.

    Raises:
        RunError: the exit status is not 0, or the plaintext is not that of the layer.
    """
    script = [sys.executable, "-IS", process.__file__, str(layer.size), str(copies), "digest" * check_bytes]
    command, environment = [*script, str(program), *arguments], {**os.environ, **layer.environment}
    with TemporaryFile() as errors:  # a file, because an agent that stays behind could hold a pipe open
        done = subprocess.run(
            command, input=layer.payload, stdout=subprocess.PIPE, stderr=errors, env=environment, check=False
        )
        errors.seek(0)
        said = errors.read(1000).decode()
    if done.returncode:
        raise RunError(f"{program} cannot be started: {said}")
    status, wall, cpu, peak, *written = done.stdout.decode().split()
    if status != "0":
        raise RunError(f"{program} ended with status {status}: {said}")
    if written != [layer.plain_sha256 if check_bytes else str(layer.size)]:
        raise RunError(f"{program} wrote something else than the layer's plaintext")
    return Run(float(wall), float(cpu), int(peak) * 1024)


def seconds(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> float:
    """Return how long a command takes.

    Raises:
        RunError: its exit status is not 0.
    """
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    taken = time.perf_counter() - started
    if done.returncode:
        raise RunError(f"{command[0]} ended with status {done.returncode}: {done.stderr.strip()}")
    return taken


@contextmanager
def serving(
    command: Sequence[object], text: str, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run a server; yield its process, and what follows `text` in its output once it has written that.

    Raises:
        RunError: it ends, or writes no such text within SECONDS.
    """
    with TemporaryDirectory() as directory:
        log, deadline = Path(directory, "log"), time.monotonic() + SECONDS
        with log.open("wb") as out:
            server = subprocess.Popen(
                list(map(str, command)), stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, cwd="/"
            )
        try:
            while text not in (written := log.read_text()) or not written.endswith("\n"):
                if server.poll() is not None or time.monotonic() > deadline:
                    raise RunError(f"{command[0]} did not start: {written}")
                time.sleep(0.02)
            yield server, written.partition(text)[2]
        finally:
            server.kill()
            server.wait()


def stop_agent() -> None:
    """End the agents that earlier layers have left behind."""
    subprocess.run([PROGRAMS[PACKAGE], "agent", "stop"], capture_output=True, check=False)
