"""`python -m bench`: measure, print the figures as Markdown, keep them, and write and draw them. It never judges."""

import gzip
import os
import platform
import re
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path

from bench import costs
from bench.containerd.pull import pull
from bench.containerd.store import store
from bench.decoders import CASES, decrypt
from bench.images.encrypt import encrypt
from bench.programs import IMGCRYPT, MIB, PROGRAMS, ROOT, Bench, RunError, stop_agent
from bench.report import documents
from bench.report.figures import HEADER, Figure, read_figures, write_figures
from bench.report.plot import draw
from decoder import __version__

_PARTS: dict[str, Callable[[Bench], Iterator[Figure]]] = {
    **{part: partial(decrypt, part) for part in CASES},
    **{part.__name__: part for part in (pull, costs.instructions, costs.memory, costs.keys, store, encrypt)},
}


def main() -> int:
    """Measure, and return the exit status: 0 whatever the figures are, 1 if a program failed."""
    parser = ArgumentParser(prog="bench", description="Compare with the reference program, in turn.")
    parser.add_argument("--largest", type=int, default=10240, metavar="MIB", help="no larger layers (default: 10240)")
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="turns with small layers (default: 15)")
    parser.add_argument("--only", action="append", choices=_PARTS, help="only this part; may be repeated")
    parser.add_argument(
        "--into", type=Path, default=ROOT / ".cache/bench", metavar="DIRECTORY",
        help="where figures.json, speed.png and RESULTS.md are; rows of other parts stay (default: %(default)s)",
    )  # fmt: skip
    arguments = parser.parse_args()
    _restart_with_own_run()
    try:
        subprocess.run(["make", "--silent", ".cache/bench/.installed"], cwd=ROOT, stdout=sys.stderr, check=True)
        _measure(arguments.only or _PARTS, Bench(PROGRAMS, arguments.largest * MIB, arguments.rounds), arguments.into)
    except (OSError, subprocess.SubprocessError, RunError) as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return 1
    finally:
        stop_agent()
    return 0


def _measure(parts: Collection[str], bench: Bench, directory: Path) -> None:
    """Measure parts. Keep the figures of each in place of its earlier ones when it is done."""
    machine, file = _describe_machine(), directory / "figures.json"
    print(f"{machine}.\n", *HEADER, sep="\n", flush=True)
    directory.mkdir(parents=True, exist_ok=True)
    for part in (part for part in _PARTS if part in parts):
        measured = []
        for figure in _PARTS[part](bench):
            print(figure.row(), flush=True)
            measured.append(figure._replace(part=part, machine=machine))
        kept = [figure for figure in read_figures(file) if figure.part != part]
        figures = sorted([*kept, *measured], key=lambda figure: list(_PARTS).index(figure.part))
        write_figures(file, figures)
        draw(figures, directory / "speed.png")
        for document in (directory / "RESULTS.md", directory.parent / "README.md"):
            if document.exists():
                documents.write(document, figures)


def _describe_machine() -> str:
    """Name the processor, the load, and the versions of Linux and of the programs."""
    models = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    release = ".".join(platform.release().split(".")[:2])
    model, cores, load = models[0] if models else platform.machine(), os.cpu_count(), os.getloadavg()[0]
    with gzip.open(IMGCRYPT / "share/doc/imgcrypt/changelog.Debian.gz", "rt") as changelog:
        reference = changelog.readline().split()[1].strip("()")
    ours = f"ctd-decoder {__version__}, pip's on Python {platform.python_version()}"
    return f"{model}, {cores} cores, load {load:.1f}, Linux {release}; reference: imgcrypt {reference}; ours: {ours}"


def _restart_with_own_run() -> None:
    """Start this program again with an empty /run, so that it stops no agent of the machine."""
    if os.geteuid() == 0 and not os.environ.get("BENCH_RUN"):
        script = 'mount -t tmpfs -o mode=755 tmpfs /run && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-m", "bench", *sys.argv[1:]]
        os.execvpe(command[0], command, {**os.environ, "BENCH_RUN": "own"})  # noqa: S606


if __name__ == "__main__":
    sys.exit(main())
