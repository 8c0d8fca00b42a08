"""Figures: every run of everything that was measured, and what a median says of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from operator import attrgetter
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

from bench.run import Run

Quantity = Callable[[Run], float]
WALL: Quantity = attrgetter("wall")
CPU: Quantity = attrgetter("cpu")
PEAK: Quantity = attrgetter("peak")
REFERENCE = "reference"
HMAC_ALONE = "HMAC-SHA256 alone"
BOUND = "what the cores allow"


class Figure(NamedTuple):
    """The runs of one thing.

    Attributes:
        part: the part of the bench that measured it.
        scheme: how the layers' keys were wrapped.
        amount: of bytes, layers or decoders: that which grows in this part.
        runs: by program; the runs at one place in their lists are of one round.
    """

    part: str
    scheme: str
    amount: int
    runs: dict[str, list[Run]]

    def spread(self, program: str, quantity: Quantity = WALL) -> tuple[float, float, float]:
        """Return the quartiles, the median in the middle."""
        values = [quantity(run) for run in self.runs[program]]
        first, second, third = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        return first, second, third

    def ratio(self, program: str, other: str = REFERENCE, quantity: Quantity = WALL) -> float:
        """Return the median of a program's runs divided by another's of the same round."""
        pairs = zip(self.runs[program], self.runs[other], strict=True)
        return median(quantity(run) / quantity(beside) for run, beside in pairs)


class Report(NamedTuple):
    """Figures, and on what machine and with which programs they were made."""

    machine: str
    figures: list[Figure]


def write_report(path: Path, report: Report) -> None:
    """Write a report as JSON, a figure a line."""
    lines = ",\n".join(json.dumps(figure._asdict()) for figure in map(_rounded, report.figures))
    path.write_text(f'{{"machine": {json.dumps(report.machine)}, "figures": [\n{lines}\n]}}\n')


def read_report(path: Path) -> Report:
    """Read what `write_report` wrote.

    Raises:
        OSError: there is no such file.
    """
    value = json.loads(path.read_text())
    return Report(value["machine"], [_figure(**each) for each in value["figures"]])


def of_part(figures: Iterable[Figure], part: str, scheme: str = "") -> list[Figure]:
    """Choose the figures of a part, or of a scheme in it, in the order of their amounts."""
    chosen = (figure for figure in figures if figure.part == part and scheme in ("", figure.scheme))
    return sorted(chosen, key=attrgetter("amount"))


def _rounded(figure: Figure) -> Figure:
    runs = {name: [Run(round(run.wall, 6), round(run.cpu, 6), run.peak) for run in runs]
            for name, runs in figure.runs.items()}  # fmt: skip
    return figure._replace(runs=runs)


def _figure(part: str, scheme: str, amount: int, runs: dict[str, list[list[float]]]) -> Figure:
    return Figure(
        part,
        scheme,
        amount,
        {name: [Run(wall, cpu, int(peak)) for wall, cpu, peak in values] for name, values in runs.items()},
    )
