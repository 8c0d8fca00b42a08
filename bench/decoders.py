"""What is measured of the decoders in turn: the parts of the bench that the plot shows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.hmac import HMAC

from bench.figures import HMAC_ALONE, Figure, size_text
from bench.layers import make_layer, schemes
from bench.programs import GIB, MIB, PACKAGE, PIP, PIP_WARM, WARM, Layer, Run, run, stop_agent

SMALL_BYTES = 246
# The image of a published tutorial: a few large layers among many small ones, from the base image up.
IMAGE_BYTES = (54926871, 5153100, 10871687, 54566834, 196447011, 6290533, 16814102, 232, 2349255, 180, 8854882,
               540, 539, 832, 528, 526, 604, 191, 14298306, 322, 536)  # fmt: skip
_SIZES = (0, SMALL_BYTES, 64 * 1024, MIB, 16 * MIB, 128 * MIB, GIB, 10 * GIB)
_AT_ONCE = ((16, SMALL_BYTES), (64, SMALL_BYTES), (4, 64 * MIB), (16, 64 * MIB))
_PAUSE_SECONDS = 0.06  # containerd unpacks a small layer in about that time
_SETTLING_SECONDS = 1.0  # then the agent that the turn before has left behind has its workers ready
_CHECKED_BYTES = 256 * MIB  # above this the length is compared and not the bytes, which would take too long
_BLOCK = bytes(256 * 1024)  # stays in the processor's cache

Programs = Mapping[str, Path]


class Extent(NamedTuple):
    """How much is measured: the largest layer in bytes, and how often the programs take turns with small layers."""

    largest: int
    rounds: int

    def rounds_of(self, size: int) -> int:
        """Return how often the programs take turns with `size` bytes in all."""
        return self.rounds if size < 16 * MIB else -(-self.rounds // 3) if size <= GIB else 1


def image(programs: Programs, extent: Extent) -> Iterator[Figure]:
    """Decrypt the layers of one image, one after another."""
    runs = _measure(programs, list(map(make_layer, IMAGE_BYTES)), extent.rounds_of(GIB))
    yield Figure("image", f"an image of {len(IMAGE_BYTES)} layers", len(IMAGE_BYTES), runs)


def layers(programs: Programs, extent: Extent) -> Iterator[Figure]:
    """Decrypt small layers one after another, without pauses and as far apart as containerd starts them."""
    for count in (1, 21, 200):
        for name, pause in (("back to back", 0.0), ("60 ms apart", _PAUSE_SECONDS)):
            rounds = 1 if count == 200 else extent.rounds_of(GIB)  # the sum of many layers evens out by itself
            runs = _measure(programs, [make_layer(SMALL_BYTES)] * count, rounds, pause=pause)
            yield Figure("layers", f"layers of {SMALL_BYTES} bytes, {name}: {count}", count, runs)


def scheme(programs: Programs, extent: Extent) -> Iterator[Figure]:
    """Decrypt one layer that is wrapped in every way."""
    with schemes() as wraps:
        for name, wrap in wraps.items():
            for size in (each for each in (SMALL_BYTES, 16 * MIB) if each <= extent.largest):
                runs = _measure(programs, [make_layer(size, wrap)], extent.rounds_of(size))
                yield Figure("scheme", f"{size_text(size)} layer, {name}", size, runs)


def size(programs: Programs, extent: Extent) -> Iterator[Figure]:
    """Decrypt ever larger layers, and in the same turns compute their HMAC alone, in memory."""
    for size in (each for each in _SIZES if each <= extent.largest):
        runs = _measure(programs, [make_layer(size)], extent.rounds_of(size), hmac_alone=True)
        yield Figure("size", f"{size_text(size)} layer, pipe to pipe", size, runs)


def at_once(programs: Programs, extent: Extent) -> Iterator[Figure]:
    """Decrypt with many decoders at once."""
    for count, size in (each for each in _AT_ONCE if each[1] <= extent.largest):
        runs = _measure(programs, [make_layer(size)], extent.rounds_of(GIB), copies=count)
        yield Figure("at-once", f"{size_text(size)} layers, all at once: {count}", count, runs)


def _measure(
    programs: Programs,
    layers: Sequence[Layer],
    rounds: int,
    *,
    copies: int = 1,
    pause: float = 0,
    hmac_alone: bool = False,
) -> dict[str, list[Run]]:
    """Run each program once in every round, so that other load on the machine affects all of them.

    Before that, each program works once without being measured, and its plaintext is compared.
    """
    for layer in {layer.payload: layer for layer in layers if layer.size <= _CHECKED_BYTES}.values():
        for program in set(programs.values()):
            run(program, layer, check_bytes=True, copies=copies)
    runs: dict[str, list[Run]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            if name in (PACKAGE, PIP):
                stop_agent()
            elif name in (WARM, PIP_WARM):
                time.sleep(_SETTLING_SECONDS)
            taken = []
            for layer in layers:
                taken.append(run(program, layer, copies=copies))
                time.sleep(pause)
            walls, cpus, peaks = zip(*taken, strict=True)
            runs[name].append(Run(sum(walls), sum(cpus), max(peaks)))
        if hmac_alone:
            runs.setdefault(HMAC_ALONE, []).append(_hmac_alone(layers[0].size))
    return runs


def _hmac_alone(size: int) -> Run:
    hmac, started = HMAC(bytes(32), hashes.SHA256()), time.perf_counter()
    for start in range(0, size, len(_BLOCK)):
        hmac.update(memoryview(_BLOCK)[: size - start])
    return Run(time.perf_counter() - started)
