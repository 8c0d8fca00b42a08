"""One run of a decoder, between pipes, as containerd starts it."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence
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
    """What one process took, or several together: times in seconds, the memory of the largest in bytes."""

    wall: float
    cpu: float
    peak: int


class _Ends(NamedTuple):
    """Who drains a decoder, and the descriptors that it gets as 0, 1 and 3."""

    drain: subprocess.Popen[str]
    descriptors: tuple[int, ...]


def run(
    program: Path, layer: Layer, *, check_bytes: bool = False, arguments: Sequence[str] = (), copies: int = 1
) -> Run:
    """Decrypt a layer with a program; the pipes are ready and full before the clock starts.

    Args:
        program: the decoder.
        layer: what to decrypt.
        check_bytes: compare the plaintext's SHA-256, which takes time, and not its length alone.
        arguments: the program's command line.
        copies: how many decoders run at once, each on a layer of its own.

    Raises:
        RunError: the exit status is not 0, or the plaintext is not the layer's.
    """
    with ExitStack() as processes:
        with ExitStack() as pipe_ends:
            ends = [_connect(processes, pipe_ends, layer, check_bytes) for _ in range(copies)]
            for each in ends:
                _read_line(each.drain)
                select.select([each.descriptors[0]], [], [], launch.SECONDS)
            descriptors = [descriptor for each in ends for descriptor in each.descriptors]
            command = [",".join(map(str, descriptors)), str(program), *arguments]
            started = _start(launch, *command, pass_fds=descriptors, environment=layer.environment)
            launcher = processes.enter_context(started)
        figures, plain = _read_line(launcher), {_read_line(each.drain) for each in ends}
    if not figures:
        raise RunError(f"{program} cannot be started")
    status, wall, cpu, peak = figures.split()
    if status != "0":
        raise RunError(f"{program} ended with status {status}")
    if plain != {layer.plain_sha256 if check_bytes else str(layer.size)}:
        raise RunError(f"{program} wrote something else than the layer's plaintext")
    return Run(float(wall), float(cpu), int(peak) * 1024)


def _connect(processes: ExitStack, pipe_ends: ExitStack, layer: Layer, check_bytes: bool) -> _Ends:
    """Start who feeds and drains one decoder."""
    (stdin, feed_end), (drain_end, stdout), (payload, payload_end) = (_pipe(pipe_ends) for _ in range(3))
    payload_end.write(layer.payload)
    payload_end.close()
    processes.enter_context(_start(pipes, "feed", str(layer.size), stdout=feed_end))
    feed_end.close()
    drain = processes.enter_context(_start(pipes, "digest" if check_bytes else "drain", stdin=drain_end))
    drain_end.close()
    return _Ends(drain, (stdin.fileno(), stdout.fileno(), payload.fileno()))


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
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    command = [sys.executable, "-IS", str(script.__file__), *arguments]
    env = {**os.environ, **(environment or {})}
    return subprocess.Popen(command, stdin=stdin, stdout=stdout, pass_fds=pass_fds, env=env, text=True)


def _read_line(process: subprocess.Popen[str]) -> str:
    return process.stdout.readline().strip() if process.stdout else ""
