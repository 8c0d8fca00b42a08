"""The program of the packages under containerd and on all vectors, instead of the one in the virtual environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.processes import ROOT

if TYPE_CHECKING:
    from tests.support.packages import Built

_TESTS = (
    "tests/system/test_containerd.py",
    "tests/system/test_configuration.py",
    "tests/unit/test_vectors.py",
    "tests/unit/provider/test_client_command.py",
    "tests/unit/provider/test_client_grpc.py",
)
_SECONDS = 600


def test_the_system_tests_pass_with_it(built: Built, tmp_path: Path) -> None:
    for package in built.directory.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", package, tmp_path], check=True)
    program = tmp_path / "usr/bin/ctd-decoder"
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *_TESTS],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
        cwd=ROOT,
        env={**os.environ, "CTD_DECODER_PROGRAM": str(program)},
    )
    assert result.returncode == 0, result.stdout[-4000:]
