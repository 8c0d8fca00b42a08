"""The table of what all programs were measured on: a row for each thing, a column for each program."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from bench.compare import GIB, MIB, size_text
from bench.figures import BOUND, CPU, HMAC_ALONE, PEAK, REFERENCE, WALL, Figure, Quantity
from bench.parts import RSA, SMALL_BYTES
from bench.warm import WARM

_LARGE_BYTES = 256 * MIB


def header(programs: Sequence[str]) -> str:
    """Write the head of the table."""
    titles = ("what", "runs", *programs, "target")
    return f"| {' | '.join(titles)} |\n|{' --- |' * len(titles)}"


def rows(figure: Figure, programs: Sequence[str]) -> Iterator[str]:
    """Write the rows of a figure: its wall time, and CPU time and memory where they tell more."""
    yield _row(figure, programs, "", WALL)
    large = HMAC_ALONE in figure.runs and figure.amount >= _LARGE_BYTES
    if large or figure.part == "image":
        yield _row(figure, programs, ", CPU", CPU)
        yield _row(figure, programs, ", peak memory", PEAK)
    if large:
        yield _share(figure, programs, HMAC_ALONE, "at least 75 %" if figure.amount == GIB else "-")
        yield _share(figure, programs, BOUND, "-")


def _row(figure: Figure, programs: Sequence[str], of: str, quantity: Quantity) -> str:
    cells = [_cell(figure, program, quantity) for program in programs]
    return _join(figure, of, cells, _TARGETS.get((figure.part, figure.scheme, figure.amount, of), "-"))


def _cell(figure: Figure, program: str, quantity: Quantity) -> str:
    if program == WARM and quantity is not WALL:
        return "-"  # the kernel counts what the agent's workers take to the agent
    quartiles = figure.spread(program, quantity)
    unit, name = (MIB, "MiB") if quantity is PEAK else (1, "s") if quartiles[1] >= 1 else (1e-3, "ms")
    low, middle, high = (_number(value / unit) for value in quartiles)
    ratio = "" if program == REFERENCE else f" **{figure.ratio(program, quantity=quantity):.2f}**"
    return f"{middle} {name} ({low} to {high}){ratio}"


def _share(figure: Figure, programs: Sequence[str], whole: str, target: str) -> str:
    """Write how fast each is, and how much that is of the speed of what all are held against."""
    cells = []
    for program in programs:
        _, seconds, _ = figure.spread(program)
        share = figure.ratio(whole, program)
        cells.append(f"{figure.amount / seconds / 1e6:.0f} MB/s, {share * 100:.0f} %")
    _, seconds, _ = figure.spread(whole)
    return _join(figure, f", share of {whole} ({figure.amount / seconds / 1e6:.0f} MB/s)", cells, target)


def _join(figure: Figure, of: str, cells: Sequence[str], target: str) -> str:
    runs = len(figure.runs[REFERENCE])
    return f"| {_WHAT[figure.part](figure)}{of} | {runs} | {' | '.join(cells)} | {target} |"


_WHAT: dict[str, Callable[[Figure], str]] = {
    "image": lambda figure: f"the image of {figure.amount} layers",
    "single": lambda figure: f"{size_text(figure.amount)} layer, {figure.scheme}",
    "size": lambda figure: f"{size_text(figure.amount)} layer, pipe to pipe",
    "layers": lambda figure: f"layers of {SMALL_BYTES} bytes: {figure.amount}",
    "parallel": lambda figure: f"decoders at once: {figure.amount}",
}

# By part, scheme, amount and quantity; the ratios are of time.
_TARGETS = {
    ("image", RSA, 21, ""): f"{WARM} at most 0.35",
    ("single", RSA, SMALL_BYTES, ""): f"package at most 3.3, {WARM} 0.5",
    ("size", RSA, GIB, ""): "at most 0.33",
    ("size", RSA, 10 * GIB, ", peak memory"): "at most 40 MiB",
}


def _number(value: float) -> str:
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"
