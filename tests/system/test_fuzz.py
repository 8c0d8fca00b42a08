"""A minute of fuzzing, shared by all targets. `make fuzz SECONDS=3600` goes deeper."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.fuzz.targets import TARGETS
from tests.support.program.processes import ROOT

SECONDS = 60


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_documented_failures(name: str) -> None:
    seconds = max(1, SECONDS // len(TARGETS))
    command = [sys.executable, "-m", "tests.fuzz", "--seconds", str(seconds), name]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"fuzz: {name}: no inputs" not in done.stdout
