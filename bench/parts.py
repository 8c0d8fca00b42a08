"""What is measured of all programs in turn: the parts of the bench that the plot shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.alone import bound, hmac_alone
from bench.compare import GIB, MIB, Work, at_once, in_turn, one_after_another
from bench.figures import BOUND, HMAC_ALONE, Figure
from bench.layer import make_layer
from bench.schemes import schemes

if TYPE_CHECKING:
    from bench.run import Run

SMALL_BYTES = 246
RSA = "JWE RSA"
# The image of a published tutorial: a few large layers among many small ones, from the base image up.
IMAGE_BYTES = (54926871, 5153100, 10871687, 54566834, 196447011, 6290533, 16814102, 232, 2349255, 180, 8854882,
               540, 539, 832, 528, 526, 604, 191, 14298306, 322, 536)  # fmt: skip
# Above this the bytes are not compared, which would take longer than the measurement; the length is.
_CHECKED_BYTES = 256 * MIB
_MANY_LAYERS = 100  # their sum evens out by itself what rounds are there for

Programs = Mapping[str, Path]


class Rounds(NamedTuple):
    """How often each program takes its turn: with layers below 16 MiB, below 1 GiB, below 10 GiB, and larger ones."""

    small: int
    middle: int
    large: int
    huge: int

    def of(self, size: int) -> int:
        """Choose by a size in bytes."""
        for limit, rounds in ((16 * MIB, self.small), (GIB, self.middle), (10 * GIB, self.large)):
            if size < limit:
                return rounds
        return self.huge


class Extent(NamedTuple):
    """How much is measured.

    Attributes:
        single: sizes in bytes of the layers that are wrapped in every way.
        single_rounds: how often.
        growing: sizes in bytes up to the largest, wrapped in one way.
        growing_rounds: how often.
        layers: numbers of small layers.
        parallel: numbers of decoders at once.
        parallel_bytes: the size of each one's layer.
        image: rounds of the image.
        several: rounds of many layers or decoders.
    """

    single: tuple[int, ...]
    single_rounds: Rounds
    growing: tuple[int, ...]
    growing_rounds: Rounds
    layers: tuple[int, ...]
    parallel: tuple[int, ...]
    parallel_bytes: int
    image: int
    several: int


def image(programs: Programs, extent: Extent) -> Iterator[Figure]:
    """Decrypt the layers of one image, one after another."""
    work = one_after_another([make_layer(size) for size in IMAGE_BYTES])
    yield Figure("image", RSA, len(IMAGE_BYTES), _measure(programs, work, extent.image))


def single(programs: Programs, extent: Extent) -> Iterator[Figure]:
    """Decrypt one layer, of every size and wrapped in every way."""
    with schemes() as wraps:
        for scheme, wrap in wraps.items():
            for size in extent.single:
                work = at_once(make_layer(size, wrap), 1)
                runs = _measure(programs, work, extent.single_rounds.of(size), check_bytes=size <= _CHECKED_BYTES)
                yield Figure("single", scheme, size, runs)


def size(programs: Programs, extent: Extent) -> Iterator[Figure]:
    """Decrypt ever larger layers, and in the same turns measure what cannot be left out of that."""
    for size in extent.growing:
        work = at_once(make_layer(size), 1)
        also = {HMAC_ALONE: partial(hmac_alone, size), BOUND: partial(bound, size)}
        runs = _measure(programs, work, extent.growing_rounds.of(size), check_bytes=size <= _CHECKED_BYTES, also=also)
        yield Figure("size", RSA, size, runs)


def layers(programs: Programs, extent: Extent) -> Iterator[Figure]:
    """Decrypt ever more small layers, one after another."""
    for number in extent.layers:
        work = one_after_another([make_layer(SMALL_BYTES)] * number)
        rounds = extent.several if number < _MANY_LAYERS else 1
        yield Figure("layers", RSA, number, _measure(programs, work, rounds, check_bytes=False))


def parallel(programs: Programs, extent: Extent) -> Iterator[Figure]:
    """Decrypt with ever more decoders at once."""
    layer = make_layer(extent.parallel_bytes)
    for number in extent.parallel:
        yield Figure("parallel", RSA, number, _measure(programs, at_once(layer, number), extent.several))


PARTS: dict[str, Callable[[Programs, Extent], Iterator[Figure]]] = {
    "image": image,
    "single": single,
    "size": size,
    "layers": layers,
    "parallel": parallel,
}


def _measure(
    programs: Programs,
    work: Work,
    rounds: int,
    *,
    check_bytes: bool = True,
    also: Mapping[str, Callable[[], Run]] = {},
) -> dict[str, list[Run]]:
    """Have the programs do their work in turn, after one time each that does not count and checks every byte."""
    if check_bytes:
        for program in programs.values():
            work(program, True)
    takers = {name: partial(work, program, False) for name, program in programs.items()}
    return in_turn({**takers, **also}, rounds)
