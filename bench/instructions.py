"""How many instructions a small layer takes: a number that does not depend on what else the machine does.

valgrind counts them without privileges and on machines whose kernel cannot. Its processor has no instructions for
SHA-256, so a large layer's number would say nothing.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.compare import Row
from bench.layer import Layer, make_layer
from bench.parts import SMALL_BYTES
from bench.run import RunError, run
from bench.warm import WARM

_COUNT = re.compile(r"I +refs: +([\d,]+)")


def rows(programs: Mapping[str, Path]) -> list[Row]:
    """Count for each program but the agent's client, which leaves the work to others, or say what is missing."""
    what = f"instructions of a {SMALL_BYTES}-byte layer"
    valgrind = shutil.which("valgrind")
    if not valgrind:
        return [Row(what, "-", "not available: valgrind is not installed", "-", "-")]
    layer = make_layer(SMALL_BYTES)
    reference, *ours = (
        (name, _count(Path(valgrind), program, layer)) for name, program in programs.items() if name != WARM
    )
    return [
        Row(f"{what}, {name}", _millions(reference[1]), _millions(count), f"{count / reference[1]:.2f}", "-")
        for name, count in ours
    ]


def _count(valgrind: Path, program: Path, layer: Layer) -> int:
    """Return the instructions of a program and of the processes that it starts."""
    with TemporaryDirectory() as directory:
        arguments = ["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null", "--trace-children=yes",
                     f"--log-file={directory}/%p", str(program)]  # fmt: skip
        run(valgrind, layer, arguments=arguments)
        counts = [match for log in Path(directory).iterdir() for match in _COUNT.findall(log.read_text())]
    if not counts:
        raise RunError("valgrind counted nothing")
    return sum(int(count.replace(",", "")) for count in counts)


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} million"
