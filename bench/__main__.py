"""`python -m bench`: print the figures as Markdown, and keep and draw them. It reports, and never judges."""

from __future__ import annotations

import os
import platform
import re
import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator
from pathlib import Path

from bench import containerd, ours
from bench.decoders import ROOT, all_programs, describe, in_a_run_of_our_own, stop_agent
from bench.figures import Figure, Report, header, read_report, rows, write_report
from bench.parts import PARTS, Extent
from bench.plot import draw
from bench.run import GIB, MIB, RunError

_HERE = Path(__file__).parent
_PARTIAL = ROOT / ".cache/bench"
_FIGURES, _PLOT = "figures.json", "speed.png"
_FULL = Extent(
    single=(0, 246, 64 * 1024, MIB, 16 * MIB, 128 * MIB, GIB),
    growing=(MIB, 16 * MIB, 128 * MIB, GIB, 10 * GIB),
    layers=(1, 21, 200),
    parallel=(1, 4, 16),
    parallel_bytes=64 * MIB,
    rounds=(15, 5),
)
_QUICK = Extent(
    single=(0, 246, MIB, 16 * MIB),
    growing=(MIB, 64 * MIB, 256 * MIB),
    layers=(1, 21),
    parallel=(1, 4),
    parallel_bytes=16 * MIB,
    rounds=(5, 3),
)
_OURS = ("instructions", "keys", "store", "keyprovider", "encrypt")
_LEGEND = """\
Medians and quartiles of the runs of each in turn, and the ratio of ours to the reference's, which is the median of the
rounds: below 1, ours is faster or smaller. The package starts from entirely cold; "warm" is the next turn, with
the agent that the first one left behind."""


def main() -> int:
    """Measure, and return the exit status: 0 whatever the figures, 1 if a program failed."""
    names = (*PARTS, "pull", *_OURS)
    parser = ArgumentParser(prog="bench", description="compare with the reference program, in turn")
    parser.add_argument("--quick", action="store_true", help="smaller layers and fewer runs")
    parser.add_argument("--only", action="append", choices=names, help="this part alone; may be repeated")
    parser.add_argument("--plot-only", action="store_true", help="draw the figures of the last full run again")
    arguments = parser.parse_args()
    # What RESULTS.md shows is made by a full run and by nothing less.
    target = _PARTIAL if arguments.quick or arguments.only else _HERE
    try:
        if arguments.plot_only:
            draw(read_report(_HERE / _FIGURES), _HERE / _PLOT)
        else:
            in_a_run_of_our_own()
            _measure(arguments.only or names, _QUICK if arguments.quick else _FULL, target)
    except (OSError, RunError) as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return 1
    return 0


def _measure(names: Iterable[str], extent: Extent, target: Path) -> None:
    machine = f"{_describe_machine()}; {describe()}"
    print(f"{machine}.\n\n{_LEGEND}\n", flush=True)
    programs = all_programs()
    try:
        report = Report(machine, list(_figures(names, extent)))
        if report.figures:
            target.mkdir(parents=True, exist_ok=True)
            write_report(target / _FIGURES, report)
            draw(report, target / _PLOT)
        made = {
            "instructions": ours.instructions(programs),
            "keys": ours.keys_directory(),
            "store": ours.store(5 if extent is _QUICK else 20),
            "keyprovider": ours.keyprovider_load(),
            "encrypt": ours.encrypt(64 * MIB if extent is _QUICK else 512 * MIB),
        }
        chosen = [each for name, each in made.items() if name in names]
        if chosen:
            print("\n| what | reference | ours | ratio |\n| --- | --- | --- | --- |", flush=True)
        for each in chosen:
            print(*each, sep="\n", flush=True)
    finally:
        stop_agent()


def _figures(names: Iterable[str], extent: Extent) -> Iterator[Figure]:
    programs = all_programs()
    parts = [measure(programs, extent) for name, measure in PARTS.items() if name in names]
    if "pull" in names:
        parts.append(containerd.pulls(extent.rounds[1]))
    if parts:
        print(header(list(programs)), flush=True)
    for part in parts:
        for figure in part:
            print(*rows(figure, list(programs)), sep="\n", flush=True)
            yield figure


def _describe_machine() -> str:
    models = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    release = ".".join(platform.release().split(".")[:2])
    return f"{models[0] if models else platform.machine()}, {cores} cores, load {load:.1f}, Linux {release}"


if __name__ == "__main__":
    sys.exit(main())
