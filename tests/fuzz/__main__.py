"""Fuzz every target for a share of the time, or one for all of it: `python -m tests.fuzz --seconds 600 [TARGET...]`.

A target that dies on an input leaves it in .cache/fuzz/crashes, from where `python -m tests.fuzz TARGET FILE` repeats
it. What each target has found interesting stays in .cache/fuzz/TARGET, and is where the next run begins.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-untyped]

if "--child" in sys.argv:
    with atheris.instrument_imports(include=["decoder"]):
        from tests.fuzz.targets import TARGETS, Target

        _target = TARGETS[sys.argv[sys.argv.index("--child") + 1]]
        _target.prepare()
        for _seed in _target.seeds():  # it imports what it needs, instrumented
            _target.run(_seed)
else:
    from tests.fuzz.targets import TARGETS, Target

_FOUND = Path(__file__).parents[2] / ".cache/fuzz"
_LONGEST_INPUT_BYTES = 32 * 1024
_INPUT_SECONDS = 60  # generous: CI machines stall
_MEMORY_MIB = 1024
_START_SECONDS = 120


def main() -> int:
    """Run all targets, each in a process of its own, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for all targets together (default: 60)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    options, passed = parser.parse_known_args()
    if options.child:
        _fuzz(TARGETS[options.child], passed + options.targets)
    if len(options.targets) == 2 and Path(options.targets[1]).is_file():
        TARGETS[options.targets[0]].run(Path(options.targets[1]).read_bytes())
        print("the target takes this input")
        return 0
    names = options.targets or list(TARGETS)
    failed = [name for name in names if not _run(name, max(1, options.seconds // len(names)))]
    print(f"fuzz: {len(names) - len(failed)} passed, {len(failed)} failed{': ' if failed else ''}{', '.join(failed)}")
    return 1 if failed else 0


def _run(name: str, seconds: int) -> bool:
    """Fuzz one target in a child process; tell whether it survived."""
    found, crashes = _FOUND / name, _FOUND / "crashes"
    for directory in (found, crashes):
        directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as seeds:
        for number, seed in enumerate(TARGETS[name].seeds()):
            Path(seeds, str(number)).write_bytes(seed)
        options = {
            "max_total_time": seconds,
            "max_len": _LONGEST_INPUT_BYTES,
            "timeout": _INPUT_SECONDS,
            "rss_limit_mb": _MEMORY_MIB,
            "artifact_prefix": f"{crashes}/{name}-",
            "print_final_stats": 1,
        }
        arguments = [f"-{option}={value}" for option, value in options.items()]
        command = [sys.executable, "-m", "tests.fuzz", "--child", name, *arguments, str(found), seeds]
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=seconds + _START_SECONDS, check=False
        )
    runs = done.stderr.rpartition("number_of_executed_units:")[2].split(maxsplit=1)
    print(f"fuzz: {name}: {runs[0] if runs else 'no'} inputs in {seconds} s", flush=True)
    if done.returncode != 0:
        print(done.stdout[-4000:], done.stderr[-4000:], sep="\n", flush=True)
    return done.returncode == 0


def _fuzz(target: Target, arguments: list[str]) -> None:
    atheris.Setup([sys.argv[0], *arguments], target.run)
    atheris.Fuzz()


sys.exit(main())
