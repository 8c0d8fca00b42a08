"""The packages, built from the working tree."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.support.processes import ROOT

_BUILD_SECONDS = 900


class Built(NamedTuple):
    """The packages of one build."""

    directory: Path

    def find(self, pattern: str) -> Path:
        """Return the one package of this name."""
        (package,) = self.directory.glob(pattern)
        return package


def build(directory: Path, *architectures: str) -> Built:
    """Build the packages."""
    command: list[str | Path] = [ROOT / "packaging/build", "--output", directory, *architectures]
    result = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return Built(directory)
