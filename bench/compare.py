"""The programs in turn, and what a row of the table says of what is measured of ours alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.run import Run, run

if TYPE_CHECKING:
    from bench.layer import Layer

MIB = 1024 * 1024
GIB = 1024 * MIB

Work = Callable[[Path, bool], Run]


class Row(NamedTuple):
    """A row of the table."""

    what: str
    reference: str
    ours: str
    ratio: str
    target: str

    def __str__(self) -> str:
        return f"| {' | '.join(self)} |"


def in_turn(takers: Mapping[str, Callable[[], Run]], rounds: int) -> dict[str, list[Run]]:
    """Have each take its turn in every round, so that whatever else the machine does meets all of them."""
    runs: dict[str, list[Run]] = {name: [] for name in takers}
    for _ in range(rounds):
        for name, take in takers.items():
            runs[name].append(take())
    return runs


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
