"""What is measured of all programs in turn: the parts of the bench that the plot shows."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hmac import HMAC

from bench.decoders import PACKAGE, WARM, stop_agent
from bench.figures import BOUND, HMAC_ALONE, Figure
from bench.layers import SMALL_BYTES, make_layer, schemes
from bench.run import GIB, MIB, Layer, Run, Work, at_once, one_after_another, run

RSA = "JWE RSA"
# The image of a published tutorial: a few large layers among many small ones, from the base image up.
IMAGE_BYTES = (54926871, 5153100, 10871687, 54566834, 196447011, 6290533, 16814102, 232, 2349255, 180, 8854882,
               540, 539, 832, 528, 526, 604, 191, 14298306, 322, 536)  # fmt: skip
_BETWEEN_SECONDS = 0.06  # containerd unpacks a small layer in about that time
_SETTLING_SECONDS = 1.0  # the agent that the turn before has left behind has its workers ready by then
# Above this the bytes are not compared, which would take longer than the measurement; the length is.
_CHECKED_BYTES = 256 * MIB
_MANY_LAYERS = 100  # their sum evens out by itself what rounds are there for
_BLOCK_BYTES = 256 * 1024  # stay in the processor's cache

Programs = Mapping[str, Path]


class Extent(NamedTuple):
    """How much is measured.

    Attributes:
        single: sizes in bytes of the layers that are wrapped in every way.
        growing: sizes in bytes up to the largest, wrapped in one way.
        layers: numbers of small layers.
        parallel: numbers of decoders at once.
        parallel_bytes: the size of each one's layer.
        rounds: how often the programs take turns with small layers, and how often with everything else.
    """

    single: tuple[int, ...]
    growing: tuple[int, ...]
    layers: tuple[int, ...]
    parallel: tuple[int, ...]
    parallel_bytes: int
    rounds: tuple[int, int]

    def rounds_of(self, size: int) -> int:
        """Choose by the size of a layer in bytes."""
        return self.rounds[0] if size < 16 * MIB else self.rounds[1] if size <= GIB else 1


def image(programs: Programs, extent: Extent) -> Iterator[Figure]:
    """Decrypt the layers of one image, one after another."""
    work = one_after_another([make_layer(size) for size in IMAGE_BYTES])
    yield Figure("image", RSA, len(IMAGE_BYTES), _measure(programs, work, extent.rounds[1]))


def single(programs: Programs, extent: Extent) -> Iterator[Figure]:
    """Decrypt one layer, of every size and wrapped in every way."""
    with schemes() as wraps:
        for scheme, wrap in wraps.items():
            for size in extent.single:
                work = at_once(make_layer(size, wrap), 1)
                yield Figure("single", scheme, size, _measure(programs, work, extent.rounds_of(size)))


def size(programs: Programs, extent: Extent) -> Iterator[Figure]:
    """Decrypt ever larger layers, and in the same turns measure what cannot be left out of that."""
    for size in extent.growing:
        also = {HMAC_ALONE: partial(_hmac_alone, size), BOUND: partial(_bound, size)}
        work, check = at_once(make_layer(size), 1), size <= _CHECKED_BYTES
        yield Figure("size", RSA, size, _measure(programs, work, extent.rounds_of(size), check_bytes=check, also=also))


def layers(programs: Programs, extent: Extent) -> Iterator[Figure]:
    """Decrypt ever more small layers, one after another: at once, and as far apart as containerd starts them."""
    layer = make_layer(SMALL_BYTES)
    for number in extent.layers:
        for name, pause in (("back to back", 0.0), ("60 ms apart", _BETWEEN_SECONDS)):
            rounds = extent.rounds[1] if number < _MANY_LAYERS else 1
            work = _with_pauses(layer, number, pause)
            yield Figure("layers", name, number, _measure(programs, work, rounds, check_bytes=False))


def parallel(programs: Programs, extent: Extent) -> Iterator[Figure]:
    """Decrypt with ever more decoders at once."""
    layer = make_layer(extent.parallel_bytes)
    for number in extent.parallel:
        yield Figure("parallel", RSA, number, _measure(programs, at_once(layer, number), extent.rounds[1]))


PARTS: dict[str, Callable[[Programs, Extent], Iterator[Figure]]] = {
    each.__name__: each for each in (image, single, size, layers, parallel)
}


def _measure(
    programs: Programs,
    work: Work,
    rounds: int,
    *,
    check_bytes: bool = True,
    also: Mapping[str, Callable[[], Run]] = {},
) -> dict[str, list[Run]]:
    """Have each take its turn in every round, so that whatever else the machine does meets all of them.

    Before that each program works once without being measured, and its bytes are compared.
    """
    for program in set(programs.values()) if check_bytes else ():
        work(program, True)
    runs: dict[str, list[Run]] = {name: [] for name in (*programs, *also)}
    for _ in range(rounds):
        for name, program in programs.items():
            if name == PACKAGE:
                stop_agent()
            elif name == WARM:
                time.sleep(_SETTLING_SECONDS)
            runs[name].append(work(program, False))
        for name, take in also.items():
            runs[name].append(take())
    return runs


def _with_pauses(layer: Layer, number: int, pause: float) -> Work:
    def work(program: Path, check_bytes: bool) -> Run:
        taken = []
        for _ in range(number):
            taken.append(run(program, layer, check_bytes=check_bytes))
            time.sleep(pause)
        return Run(sum(each.wall for each in taken), sum(each.cpu for each in taken), max(each.peak for each in taken))

    return work


def _hmac_alone(size: int) -> Run:
    """Authenticate `size` bytes in memory, the same ones over and over: as fast as OpenSSL can."""
    return _in_blocks(size, HMAC(bytes(32), hashes.SHA256()).update)


def _bound(size: int) -> Run:
    """Divide the processor time of HMAC, AES and the copies through both pipes among the cores, as if nobody waited.

    It is at least the HMAC's, which nobody can divide.
    """
    cipher = Cipher(algorithms.AES(bytes(32)), modes.CTR(bytes(16))).decryptor()
    plain, (reading, writing) = bytearray(_BLOCK_BYTES + 15), os.pipe()
    buffer = memoryview(bytearray(32 * 1024))

    def carry(block: memoryview) -> None:
        for _ in range(2):  # through standard input and standard output
            for start in range(0, len(block), len(buffer)):
                os.write(writing, block[start : start + len(buffer)])
                os.readv(reading, [buffer])

    hmac = _hmac_alone(size).cpu
    total = hmac + _in_blocks(size, lambda block: cipher.update_into(block, plain)).cpu + _in_blocks(size, carry).cpu
    os.close(reading)
    os.close(writing)
    return Run(max(hmac, total / len(os.sched_getaffinity(0))), total, 0)


def _in_blocks(size: int, work: Callable[[memoryview], object]) -> Run:
    block = memoryview(bytes(_BLOCK_BYTES))
    wall, cpu = perf_counter(), process_time()
    for start in range(0, size, _BLOCK_BYTES):
        work(block[: size - start])
    return Run(perf_counter() - wall, process_time() - cpu, 0)
