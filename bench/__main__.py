"""`python -m bench`: print the figures as Markdown, keep them and draw them. It reports, and never judges."""

from __future__ import annotations

import gzip
import os
import platform
import re
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Collection
from pathlib import Path

from bench import decoders, figures, memory, ours, pulls
from bench.plot import draw
from bench.programs import IMGCRYPT, MIB, ROOT, RunError, all_programs, restart_with_own_run, stop_agent
from decoder import __version__

_DECODERS = {
    **{part.__name__: part for part in (decoders.layers, decoders.image, decoders.scheme, decoders.size, pulls.pull)},
    "at-once": decoders.at_once,
}
_OURS = {part.__name__: part for part in (ours.instructions, memory.memory, ours.keys, ours.store, ours.encrypt)}


def main() -> int:
    """Measure, and return the exit status: 0 whatever the figures are, 1 if a program failed."""
    parser = ArgumentParser(prog="bench", description="Compare with the reference program, in turn.")
    parser.add_argument("--largest", type=int, default=10240, metavar="MIB", help="no larger layers (default: 10240)")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="turns with small layers (default: 15)")
    parser.add_argument("--only", action="append", choices=(*_DECODERS, *_OURS), help="only this part; may be repeated")
    parser.add_argument(
        "--into", type=Path, default=ROOT / ".cache/bench", metavar="DIRECTORY",
        help="where figures.json and speed.png are kept; they keep their other parts (default: %(default)s)",
    )  # fmt: skip
    arguments = parser.parse_args()
    restart_with_own_run()
    try:
        extent = decoders.Extent(arguments.largest * MIB, arguments.rounds)
        _measure(arguments.only or (*_DECODERS, *_OURS), extent, arguments.into)
    except (OSError, subprocess.SubprocessError, RunError) as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return 1
    finally:
        stop_agent()
    return 0


def _measure(names: Collection[str], extent: decoders.Extent, directory: Path) -> None:
    machine = _describe_machine()
    print(f"{machine}.\n\n{figures.HEADER}", flush=True)
    programs, measured = all_programs(), []
    for part in (part for name, part in _DECODERS.items() if name in names):
        for figure in part(programs, extent):
            print(*figures.rows(figure), sep="\n", flush=True)
            measured.append(figure)
    directory.mkdir(parents=True, exist_ok=True)
    draw(figures.write_figures(directory / "figures.json", machine, measured), directory / "speed.png")
    print(f"\n{ours.HEADER}", flush=True)
    for rows in (rows for name, rows in _OURS.items() if name in names):
        for row in rows(programs, extent):
            print(f"| {' | '.join(row)} |", flush=True)


def _describe_machine() -> str:
    """Name the processor, the load, and the versions of Linux and of the programs."""
    models = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    release = ".".join(platform.release().split(".")[:2])
    model, cores, load = models[0] if models else platform.machine(), os.cpu_count(), os.getloadavg()[0]
    with gzip.open(IMGCRYPT / "share/doc/imgcrypt/changelog.Debian.gz", "rt") as changelog:
        reference = changelog.readline().split()[1].strip("()")
    programs = (
        f"reference: imgcrypt {reference}; ours: ctd-decoder {__version__}, pip's on Python {platform.python_version()}"
    )
    return f"{model}, {cores} cores, load {load:.1f}, Linux {release}; {programs}"


if __name__ == "__main__":
    sys.exit(main())
