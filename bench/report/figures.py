"""What was measured: every run of it, the row of a table that shows it, and the file that keeps it."""

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

from bench.programs import MIB, PROGRAMS, REFERENCE

HEADER = (f"| {' | '.join(('what', 'runs', *PROGRAMS))} |", "|" + " --- |" * (2 + len(PROGRAMS)))
_SCALES = {"memory": (MIB, "MiB"), "instructions": (1e6, "million"), "rate": (1e6, "MB/s")}  # others are seconds


class Figure(NamedTuple):
    """The runs of one thing: a row of a table.

    Attributes:
        what: the name of the row.
        unit: "time" and "CPU time" are in seconds, "memory" in bytes, "rate" in bytes per second, or "instructions".
        runs: by program; those with the same index are of the same round. Other names are bounds that the row shows.
        part: the part of the bench that measured it.
        machine: what it was measured on.
    """

    what: str
    unit: str
    runs: dict[str, list[float]]
    part: str = ""
    machine: str = ""

    def ratio(self, program: str, other: str = REFERENCE) -> float:
        """Return the median, over the rounds, of a program's run divided by another's."""
        return median(own / its for own, its in zip(self.runs[program], self.runs[other], strict=True))

    def row(self) -> str:
        """Write the row of a Markdown table."""
        bounds = "".join(f" ({name}: {self._spread(name)})" for name in self.runs if name not in PROGRAMS)
        rounds = max(map(len, self.runs.values()))
        return f"| {self.what}{bounds} | {rounds} | {' | '.join(map(self._cell, PROGRAMS))} |"

    def _cell(self, program: str) -> str:
        if program not in self.runs:
            return "-"
        ratio = f" **{self.ratio(program):.2f}**" if REFERENCE in self.runs and program != REFERENCE else ""
        bounds = [name for name in self.runs if self.unit == "rate" and name not in PROGRAMS]
        return self._spread(program) + ratio + "".join(f", {self.ratio(program, name):.0%}" for name in bounds)

    def _spread(self, name: str) -> str:
        """Write the median of the runs, and the quartiles in parentheses."""
        runs = self.runs[name]
        low, middle, high = quantiles(runs, n=4, method="inclusive") if len(runs) > 1 else runs * 3
        scale, unit = _SCALES.get(self.unit, (1.0, "s") if middle >= 1 else (1e-3, "ms"))
        spread = f" ({_number(low / scale)} to {_number(high / scale)})" if len(runs) > 1 else ""
        return f"{_number(middle / scale)} {unit}{spread}"


def read_figures(path: Path) -> list[Figure]:
    """Read what `write_figures` wrote; a file that does not exist has no figures."""
    return [Figure(**each) for each in json.loads(path.read_text())] if path.exists() else []


def write_figures(path: Path, figures: Iterable[Figure]) -> None:
    """Write figures as JSON, one per line."""
    path.write_text("[\n" + ",\n".join(json.dumps(figure._asdict()) for figure in figures) + "\n]\n")


def _number(value: float) -> str:
    """Write a number with three digits."""
    return f"{value:.{2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0}f}"
