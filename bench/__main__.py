"""`python -m bench [--quick]`: print the figures as a Markdown table. It reports, and never judges."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from bench import image, keysdirectory, provider, store
from bench.compare import GIB, MIB, Row, peak_memory, throughput, whole_process
from bench.layer import make_layer
from bench.programs import PIP_PROGRAM, describe_programs, write_script
from bench.run import RunError

_SMALL_BYTES = 246


class _Extent(NamedTuple):
    """How much is measured: layer sizes in bytes, and the number of paired runs."""

    large_bytes: int
    large_pairs: int
    small_pairs: int
    huge_bytes: int
    image_bytes: int
    benchmark_options: tuple[str, ...] = ()


_FULL = _Extent(1 * GIB, 7, 60, 10 * GIB, 512 * MIB)
_QUICK = _Extent(256 * MIB, 3, 20, 1 * GIB, 64 * MIB, ("--benchmark-max-time=0.2", "--benchmark-min-rounds=3"))


def main() -> int:
    """Measure, and return the exit status: 0 whatever the figures, 1 if a decoder failed."""
    parser = ArgumentParser(prog="bench", description="compare with the reference program, pair by pair")
    parser.add_argument("--quick", action="store_true", help="smaller layers and fewer runs")
    extent = _QUICK if parser.parse_args().quick else _FULL
    print(f"{_describe_machine()}; {describe_programs()}.")
    print(
        f"Medians of {extent.large_pairs} (throughput) and {extent.small_pairs} (whole process) runs of each in turn;"
    )
    print("the ratio is ours to the reference's, pair by pair.\n")
    print("| what | reference | ours | ratio | target |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    try:
        for row in _rows(extent):
            print(row, flush=True)
    except RunError as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return 1
    print(flush=True)
    return _run_benchmarks(extent.benchmark_options)


def _rows(extent: _Extent) -> Iterator[Row]:
    with TemporaryDirectory() as directory:
        script = write_script(Path(directory))
        yield throughput(script, make_layer(extent.large_bytes), extent.large_pairs)
        small = make_layer(_SMALL_BYTES)
        yield whole_process(script, "`python -IS` script", small, extent.small_pairs, "at most 4.5")
        yield whole_process(PIP_PROGRAM, "pip's program", small, extent.small_pairs, "-")
        for size in (10 * MIB, extent.huge_bytes):
            yield peak_memory(script, make_layer(size))
        yield from keysdirectory.rows()
        yield from store.rows(script, extent.small_pairs)
    yield provider.measure()
    yield from image.rows(extent.image_bytes)


def _describe_machine() -> str:
    models = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return f"{models[0] if models else os.uname().machine}, {len(os.sched_getaffinity(0))} cores"


def _run_benchmarks(options: tuple[str, ...]) -> int:
    """Measure what happens inside a process with pytest-benchmark."""
    columns = "--benchmark-columns=min,median,max,rounds"
    here = Path(__file__).parent
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", here, "--benchmark-only", columns, *options],
        cwd=here.parent,
        check=False,
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
