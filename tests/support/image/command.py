"""Run `ctd-decoder image …` as a user does, and read what it has written."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.support.program import processes

if TYPE_CHECKING:
    from tests.support.image.images import Layout

SECONDS = 120


class Ended(NamedTuple):
    """How the program ended."""

    status: int
    output: str
    errors: str

    @property
    def value(self) -> dict[str, Any]:
        """What --json printed."""
        value: dict[str, Any] = json.loads(self.output)
        return value


def image(*arguments: str | Path, **environment: str) -> Ended:
    """Run it to its end."""
    return decoded(processes.run_program(["image", *map(str, arguments)], SECONDS, environment=environment))


def decoded(process: subprocess.CompletedProcess[bytes]) -> Ended:
    """Decode what a process printed."""
    return Ended(process.returncode, process.stdout.decode(), process.stderr.decode())


def done(*arguments: str | Path, **environment: str) -> Ended:
    """Run it to its end, which must be a success."""
    ended = image(*arguments, **environment)
    assert ended.status == 0, ended.errors
    return ended


def run(*command: str | Path) -> str:
    """Run another program, which must succeed."""
    result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def oci(layout: Layout, reference: str = "") -> str:
    """Name an image in a layout."""
    return f"oci:{layout.directory}" + (f":{reference}" if reference else "")


def blobs(layout: Layout) -> list[bytes]:
    """Read the layers of the one image in a layout."""
    return [layout.read(descriptor) for descriptor in layout.layers]


def files_below(directory: Path) -> dict[str, bytes]:
    """Read everything below a directory."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}
