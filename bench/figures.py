"""What was measured: every run of it, and the rows of the table that show it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from operator import attrgetter
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

from bench.programs import GIB, MIB, PIP_WARM, PROGRAMS, REFERENCE, WARM, Run

HMAC_ALONE = "HMAC-SHA256 alone"
PLAIN = "not encrypted"  # the same image, pulled without a decoder
HEADER = f"| {' | '.join(('what', 'runs', *PROGRAMS))} |\n|{' --- |' * (2 + len(PROGRAMS))}"
_LARGE_BYTES = 256 * MIB
_UNITS = ((GIB, "GiB"), (MIB, "MiB"), (1024, "KiB"))


class Figure(NamedTuple):
    """The runs of one thing.

    Attributes:
        part: the part of the bench that measured it.
        what: the name of its row.
        amount: the number of bytes, layers or decoders.
        runs: by program. Runs with the same index are of the same round.
    """

    part: str
    what: str
    amount: int
    runs: dict[str, list[Run]]

    def spread(self, program: str, quantity: str = "wall") -> tuple[float, float, float]:
        """Return the quartiles of the runs; the second one is the median."""
        values = [getattr(run, quantity) for run in self.runs[program]]
        first, second, third = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        return first, second, third

    def ratio(self, program: str, other: str = REFERENCE, quantity: str = "wall") -> float:
        """Return the median, over the rounds, of a program's run divided by another's."""
        of, pairs = attrgetter(quantity), zip(self.runs[program], self.runs[other], strict=True)
        return float(median(of(run) / of(beside) for run, beside in pairs))


def rows(figure: Figure) -> Iterator[str]:
    """Write the rows of a figure: wall time, and for large layers CPU time, memory and throughput."""
    large = HMAC_ALONE in figure.runs and figure.amount >= _LARGE_BYTES
    for title, quantity in (("", "wall"), (", CPU", "cpu"), (", peak memory", "peak")):
        if not title or large:
            beside = f" ({PLAIN}: {_cell(figure, PLAIN, quantity)})" if PLAIN in figure.runs else ""
            yield _row(figure, title + beside, [_cell(figure, program, quantity) for program in PROGRAMS])
    if large:
        rates = {name: f"{figure.amount / figure.spread(name)[1] / 1e6:.0f} MB/s" for name in figure.runs}
        shares = [f"{rates[name]}, {figure.ratio(HMAC_ALONE, name):.0%}" if name in rates else "-" for name in PROGRAMS]
        yield _row(figure, f", share of {HMAC_ALONE} ({rates[HMAC_ALONE]})", shares)


def write_figures(path: Path, machine: str, figures: Iterable[Figure]) -> list[Figure]:
    """Write figures as JSON, one per line; return them with those of other parts that the file already had."""
    kept, figures = json.loads(path.read_text())["figures"] if path.exists() else [], list(figures)
    measured = {figure.part for figure in figures}
    for each in (each for each in kept if each["part"] not in measured):
        runs = {name: [Run(*run) for run in runs] for name, runs in each.pop("runs").items()}
        figures.append(Figure(**each, runs=runs))
    lines = ",\n".join(json.dumps(figure._asdict()) for figure in figures)
    path.write_text(f'{{"machine": {json.dumps(machine)}, "figures": [\n{lines}\n]}}\n')
    return figures


def size_text(size: int) -> str:
    """Write a number of bytes in the largest unit that divides it."""
    return next((f"{size // unit} {name}" for unit, name in _UNITS if size and size % unit == 0), f"{size}-byte")


def _row(figure: Figure, title: str, cells: Iterable[str]) -> str:
    return f"| {figure.what}{title} | {len(figure.runs[REFERENCE])} | {' | '.join(cells)} |"


def _cell(figure: Figure, program: str, quantity: str) -> str:
    left_to_agent = program in (WARM, PIP_WARM)
    if program not in figure.runs or (left_to_agent and quantity != "wall"):
        return "-"  # the kernel adds what the workers of an agent take to the agent
    quartiles = figure.spread(program, quantity)
    unit, name = (MIB, "MiB") if quantity == "peak" else (1, "s") if quartiles[1] >= 1 else (1e-3, "ms")
    low, middle, high = (_number(each / unit) for each in quartiles)
    ratio = "" if program in (REFERENCE, PLAIN) else f" **{figure.ratio(program, quantity=quantity):.2f}**"
    return f"{middle} {name} ({low} to {high}){ratio}"


def _number(value: float) -> str:
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"
