"""Figures: every run of everything that was measured, what a median says of them, and the rows of the table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

from bench.decoders import PACKAGE, REFERENCE, WARM
from bench.layers import SMALL_BYTES
from bench.run import MIB, Run, size_text

Quantity = Callable[[Run], float]
WALL: Quantity = attrgetter("wall")
CPU: Quantity = attrgetter("cpu")
PEAK: Quantity = attrgetter("peak")
HMAC_ALONE, BOUND = "HMAC-SHA256 alone", "what the cores allow"
_LARGE_BYTES = 256 * MIB


class Figure(NamedTuple):
    """The runs of one thing.

    Attributes:
        part: the part of the bench that measured it.
        scheme: how the layers' keys were wrapped, or another kind of the same part.
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
    figures = [Figure(each["part"], each["scheme"], each["amount"], _runs(each["runs"])) for each in value["figures"]]
    return Report(value["machine"], figures)


def of_part(figures: Iterable[Figure], part: str, scheme: str = "") -> list[Figure]:
    """Choose the figures of a part, or of a scheme in it, in the order of their amounts."""
    chosen = (figure for figure in figures if figure.part == part and scheme in ("", figure.scheme))
    return sorted(chosen, key=attrgetter("amount"))


def header(programs: Sequence[str]) -> str:
    """Write the head of the table."""
    titles = ("what", "runs", *programs)
    return f"| {' | '.join(titles)} |\n|{' --- |' * len(titles)}"


def rows(figure: Figure, programs: Sequence[str]) -> Iterator[str]:
    """Write the rows of a figure: its wall time, and CPU time and memory where they tell more."""
    yield _row(figure, programs, "", WALL)
    large = HMAC_ALONE in figure.runs and figure.amount >= _LARGE_BYTES
    if large or figure.part == "image":
        yield _row(figure, programs, ", CPU", CPU)
        yield _row(figure, programs, ", peak memory", PEAK)
    for whole in (HMAC_ALONE, BOUND) if large else ():
        speed = figure.amount / figure.spread(whole)[1] / 1e6
        shares = [f"{figure.amount / figure.spread(name)[1] / 1e6:.0f} MB/s, {figure.ratio(whole, name):.0%}"
                  for name in programs]  # fmt: skip
        yield _join(figure, f", share of {whole} ({speed:.0f} MB/s)", shares)


def _row(figure: Figure, programs: Sequence[str], of: str, quantity: Quantity) -> str:
    return _join(figure, of, [_cell(figure, program, quantity) for program in programs])


def _cell(figure: Figure, program: str, quantity: Quantity) -> str:
    left_to_agent = program == WARM or (program == PACKAGE and figure.part == "image")
    if program not in figure.runs or (left_to_agent and quantity is not WALL):
        return "-"  # the kernel counts what the agent's workers take to the agent
    quartiles = figure.spread(program, quantity)
    unit, name = (MIB, "MiB") if quantity is PEAK else (1, "s") if quartiles[1] >= 1 else (1e-3, "ms")
    low, middle, high = (_number(value / unit) for value in quartiles)
    ratio = "" if program == REFERENCE else f" **{figure.ratio(program, quantity=quantity):.2f}**"
    return f"{middle} {name} ({low} to {high}){ratio}"


def _number(value: float) -> str:
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def _join(figure: Figure, of: str, cells: Sequence[str]) -> str:
    return f"| {_WHAT[figure.part](figure)}{of} | {len(figure.runs[REFERENCE])} | {' | '.join(cells)} |"


_WHAT: dict[str, Callable[[Figure], str]] = {
    "image": lambda figure: f"an image of {figure.amount} layers, {figure.scheme}",
    "single": lambda figure: f"{size_text(figure.amount)} layer, {figure.scheme}",
    "size": lambda figure: f"{size_text(figure.amount)} layer, pipe to pipe",
    "layers": lambda figure: f"layers of {SMALL_BYTES} bytes, {figure.scheme}: {figure.amount}",
    "parallel": lambda figure: f"decoders at once: {figure.amount}",
    "pull": lambda figure: f"pull through containerd {figure.scheme}: {figure.amount} layers",
}


def _rounded(figure: Figure) -> Figure:
    runs = {name: [Run(round(run.wall, 6), round(run.cpu, 6), run.peak) for run in runs]
            for name, runs in figure.runs.items()}  # fmt: skip
    return figure._replace(runs=runs)


def _runs(values: dict[str, list[list[float]]]) -> dict[str, list[Run]]:
    return {name: [Run(wall, cpu, int(peak)) for wall, cpu, peak in runs] for name, runs in values.items()}
