"""Ours beside the reference, in turn, and what a row of the table says of it."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from bench.programs import REFERENCE
from bench.run import Run, run

if TYPE_CHECKING:
    from bench.layer import Layer

MIB = 1024 * 1024
GIB = 1024 * MIB


class Row(NamedTuple):
    """A row of the table."""

    what: str
    reference: str
    ours: str
    ratio: str
    target: str

    def __str__(self) -> str:
        return f"| {' | '.join(self)} |"


def throughput(ours: Path, layer: Layer, pairs: int) -> Row:
    """Compare how much goes through in a second; MB are 10^6 bytes."""
    runs = _paired_runs(ours, layer, pairs)
    reference, own = (f"{layer.size / wall / 1e6:.0f} MB/s" for wall in _median_walls(runs))
    ratio = median(reference.wall / own.wall for reference, own in runs)
    return Row(f"{size_text(layer.size)} layer, pipe to pipe", reference, own, f"{ratio:.2f}", "at least 2.5")


def whole_process(ours: Path, how: str, layer: Layer, pairs: int, target: str) -> Row:
    """Compare the time from the start of the process to its end."""
    runs = _paired_runs(ours, layer, pairs)
    reference, own = (f"{wall * 1e3:.1f} ms" for wall in _median_walls(runs))
    ratio = median(own.wall / reference.wall for reference, own in runs)
    return Row(f"{size_text(layer.size)} layer, {how}", reference, own, f"{ratio:.2f}", target)


def peak_memory(ours: Path, layer: Layer) -> Row:
    """Compare the most memory that the process held at once, in a run that also checks every byte."""
    peaks = [run(program, layer, check_bytes=True).peak for program in (REFERENCE, ours)]
    reference, own = (f"{peak / MIB:.1f} MiB" for peak in peaks)
    return Row(
        f"{size_text(layer.size)} layer, peak memory", reference, own, f"{peaks[1] / peaks[0]:.2f}", "at most 40 MiB"
    )


def size_text(size: int) -> str:
    """Write a number of bytes in the largest unit that divides it."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB")):
        if size and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size}-byte"


def _paired_runs(ours: Path, layer: Layer, pairs: int) -> list[tuple[Run, Run]]:
    """Run the reference and ours in turn, after one run of each that checks every byte."""
    for program in (REFERENCE, ours):
        run(program, layer, check_bytes=True)
    return [(run(REFERENCE, layer), run(ours, layer)) for _ in range(pairs)]


def _median_walls(runs: list[tuple[Run, Run]]) -> list[float]:
    return [median(each.wall for each in one_program) for one_program in zip(*runs, strict=True)]
