"""One run of a decoder, between pipes, as containerd starts it."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from io import FileIO
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from bench import launch, pipes

if TYPE_CHECKING:
    from bench.layer import Layer


class RunError(Exception):
    """A decoder failed, or wrote something else than the plaintext."""


class Run(NamedTuple):
    """What one process took: times in seconds, memory in bytes."""

    wall: float
    cpu: float
    peak: int


def run(program: Path, layer: Layer, *, check_bytes: bool = False, arguments: Sequence[str] = ()) -> Run:
    """Decrypt a layer with a program; the pipes are ready and full before the clock starts.

    Args:
        program: the decoder.
        layer: what to decrypt.
        check_bytes: compare the plaintext's SHA-256, which takes time, and not its length alone.
        arguments: the program's command line.

    Raises:
        RunError: the exit status is not 0, or the plaintext is not the layer's.
    """
    with ExitStack() as ends:
        (stdin, feed_end), (drain_end, stdout), (payload, payload_end) = (_pipe(ends) for _ in range(3))
        payload_end.write(layer.payload)
        payload_end.close()
        feeder = _start(pipes, "feed", str(layer.size), stdout=feed_end)
        feed_end.close()
        drain = _start(pipes, "digest" if check_bytes else "drain", stdin=drain_end)
        _read_line(drain)
        select.select([stdin], [], [])
        descriptors = [end.fileno() for end in (stdin, stdout, payload)]
        launcher = _start(launch, *map(str, descriptors), str(program), *arguments, pass_fds=descriptors)
    figures, plain = _read_line(launcher), _read_line(drain)
    for process in (feeder, drain, launcher):
        process.wait()
    if not figures:
        raise RunError(f"{program} cannot be started")
    status, wall, cpu, peak = figures.split()
    if status != "0":
        raise RunError(f"{program} ended with status {status}")
    if plain != (layer.plain_sha256 if check_bytes else str(layer.size)):
        raise RunError(f"{program} wrote something else than the layer's plaintext")
    return Run(float(wall), float(cpu), int(peak) * 1024)


def _pipe(ends: ExitStack) -> tuple[FileIO, FileIO]:
    """Make a pipe of the size that everybody gets; only a decoder may enlarge it."""
    reading, writing = os.pipe()
    return ends.enter_context(FileIO(reading, "rb")), ends.enter_context(FileIO(writing, "wb"))


def _start(
    script: ModuleType,
    *arguments: str,
    stdin: FileIO | int = subprocess.DEVNULL,
    stdout: FileIO | int = subprocess.PIPE,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[str]:
    command = [sys.executable, "-IS", str(script.__file__), *arguments]
    return subprocess.Popen(command, stdin=stdin, stdout=stdout, pass_fds=pass_fds, text=True)


def _read_line(process: subprocess.Popen[str]) -> str:
    return process.stdout.readline().strip() if process.stdout else ""
