"""One run of a decoder, and what it took."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench import process

MIB = 1024 * 1024
GIB = 1024 * MIB


class RunError(Exception):
    """A program failed, or wrote something else than the plaintext."""


class Run(NamedTuple):
    """What one process took, or several together: times in seconds, the memory of the largest in bytes."""

    wall: float
    cpu: float = 0
    peak: int = 0


class Layer(NamedTuple):
    """A layer of `size` bytes: its payload, its part of the environment, and its plaintext's SHA-256 in hexadecimal."""

    size: int
    payload: bytes
    plain_sha256: str
    environment: Mapping[str, str] = {}


Work = Callable[[Path, bool], Run]


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
    drain = "digest" if check_bytes else "count"
    script = [sys.executable, "-IS", str(process.__file__), str(layer.size), str(copies), drain]
    environment = {**os.environ, **layer.environment}
    done = subprocess.run(
        [*script, str(program), *arguments],
        input=layer.payload,
        stdout=subprocess.PIPE,
        env=environment,
        check=False,
    )
    if done.returncode:
        raise RunError(f"{program} cannot be started")
    status, wall, cpu, peak, *written = done.stdout.decode().split()
    if status != "0":
        raise RunError(f"{program} ended with status {status}")
    if written != [layer.plain_sha256 if check_bytes else str(layer.size)]:
        raise RunError(f"{program} wrote something else than the layer's plaintext")
    return Run(float(wall), float(cpu), int(peak) * 1024)


def one_after_another(layers: Sequence[Layer]) -> Work:
    """Decrypt layers as containerd does, each by a process that starts when the one before has ended."""

    def work(program: Path, check_bytes: bool) -> Run:
        runs = [run(program, layer, check_bytes=check_bytes) for layer in layers]
        return Run(sum(each.wall for each in runs), sum(each.cpu for each in runs), max(each.peak for each in runs))

    return work


def at_once(layer: Layer, copies: int) -> Work:
    """Decrypt copies of a layer, all at the same time."""
    return lambda program, check_bytes: run(program, layer, check_bytes=check_bytes, copies=copies)


def size_text(size: int) -> str:
    """Write a number of bytes in the largest unit that divides it."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (1024, "KiB")):
        if size and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size}-byte"
