"""`python -m bench`: print the figures as Markdown, and keep and draw them. It reports, and never judges."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from bench import image, instructions, keysdirectory, parts, provider, store, table
from bench.compare import GIB, MIB, Row
from bench.figures import Figure, Report, read_report, write_report
from bench.parts import PARTS, SMALL_BYTES, Programs
from bench.plot import draw
from bench.programs import PIP_PROGRAM, all_programs, describe_programs
from bench.run import RunError

_HERE = Path(__file__).parent
_PARTIAL = _HERE.parent / ".cache/bench"
_FIGURES, _PLOT = "figures.json", "speed.png"
_INSIDE = "inside"


class _Extent(NamedTuple):
    """How much is measured: of the parts, and of ours alone."""

    parts: parts.Extent
    store_pairs: int
    image_bytes: int
    benchmark_options: tuple[str, ...] = ()


_FULL = _Extent(
    parts.Extent(
        single=(0, SMALL_BYTES, 64 * 1024, MIB, 16 * MIB, 128 * MIB, GIB),
        single_rounds=parts.Rounds(15, 3, 1, 1),
        growing=(MIB, 16 * MIB, 128 * MIB, GIB, 10 * GIB),
        growing_rounds=parts.Rounds(15, 5, 5, 1),
        layers=(1, 10, 50, 200),
        parallel=(1, 2, 4, 8, 16),
        parallel_bytes=64 * MIB,
        image=7,
        several=3,
    ),
    store_pairs=20,
    image_bytes=512 * MIB,
)
_QUICK = _Extent(
    parts.Extent(
        single=(0, SMALL_BYTES, MIB, 16 * MIB),
        single_rounds=parts.Rounds(3, 1, 1, 1),
        growing=(MIB, 64 * MIB, 256 * MIB),
        growing_rounds=parts.Rounds(3, 3, 3, 1),
        layers=(1, 10),
        parallel=(1, 2, 4),
        parallel_bytes=16 * MIB,
        image=2,
        several=2,
    ),
    store_pairs=5,
    image_bytes=64 * MIB,
    benchmark_options=("--benchmark-max-time=0.2", "--benchmark-min-rounds=3"),
)

# What is measured of ours alone, or beside other programs than the reference decoder.
_ROWS: dict[str, Callable[[Programs, _Extent], Iterable[Row]]] = {
    "instructions": lambda programs, _: instructions.rows(programs),
    "keys": lambda _programs, _extent: keysdirectory.rows(),
    "store": lambda _, extent: store.rows(PIP_PROGRAM, extent.store_pairs),
    "keyprovider": lambda _programs, _extent: [provider.measure()],
    "encrypt": lambda _, extent: image.rows(extent.image_bytes),
}
_NAMES = (*PARTS, *_ROWS, _INSIDE)
_LEGEND = """\
Medians and quartiles of the runs of each in turn, and the ratio of ours to the reference's, which is the median of the
rounds: below 1, ours is faster or smaller."""


def main() -> int:
    """Measure, and return the exit status: 0 whatever the figures, 1 if a decoder failed."""
    parser = ArgumentParser(prog="bench", description="compare with the reference program, pair by pair")
    parser.add_argument("--quick", action="store_true", help="smaller layers and fewer runs")
    parser.add_argument("--only", action="append", choices=_NAMES, help="this part alone; may be repeated")
    parser.add_argument("--plot-only", action="store_true", help="draw the figures of the last full run again")
    arguments = parser.parse_args()
    names = arguments.only or _NAMES
    # What the README shows is made by a full run and by nothing less.
    target = _PARTIAL if arguments.quick or arguments.only else _HERE
    try:
        if arguments.plot_only:
            draw(read_report(_HERE / _FIGURES), _HERE / _PLOT)
        else:
            return _measure(names, _QUICK if arguments.quick else _FULL, target)
    except (OSError, RunError) as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return 1
    return 0


def _measure(names: Iterable[str], extent: _Extent, target: Path) -> int:
    machine = f"{_describe_machine()}; {describe_programs()}"
    print(f"{machine}.\n\n{_LEGEND}\n", flush=True)
    with all_programs() as programs:
        report = Report(machine, list(_figures(names, programs, extent)))
        if report.figures:
            target.mkdir(parents=True, exist_ok=True)
            write_report(target / _FIGURES, report)
            draw(report, target / _PLOT)
        _print_rows(names, programs, extent)
    return _run_benchmarks(extent.benchmark_options) if _INSIDE in names else 0


def _figures(names: Iterable[str], programs: Programs, extent: _Extent) -> Iterator[Figure]:
    chosen = [measure for name, measure in PARTS.items() if name in names]
    if chosen:
        print(table.header(list(programs)), flush=True)
    for measure in chosen:
        for figure in measure(programs, extent.parts):
            print(*table.rows(figure, list(programs)), sep="\n", flush=True)
            yield figure


def _print_rows(names: Iterable[str], programs: Mapping[str, Path], extent: _Extent) -> None:
    chosen = [rows for name, rows in _ROWS.items() if name in names]
    if chosen:
        print("\n| what | reference | ours | ratio | target |\n| --- | --- | --- | --- | --- |", flush=True)
    for rows in chosen:
        print(*rows(programs, extent), sep="\n", flush=True)


def _describe_machine() -> str:
    models = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    return f"{models[0] if models else platform.machine()}, {cores} cores, load {load:.1f}, Linux {platform.release()}"


def _run_benchmarks(options: tuple[str, ...]) -> int:
    """Measure what happens inside a process with pytest-benchmark."""
    columns = "--benchmark-columns=min,median,max,rounds"
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", _HERE, "--benchmark-only", columns, *options],
        cwd=_HERE.parent,
        check=False,
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
