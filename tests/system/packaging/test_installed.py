"""The program of the packages under containerd and on all vectors, instead of the one in the virtual environment."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.packaging.packages import check_with

if TYPE_CHECKING:
    from tests.support.packaging.packages import Built

_TESTS = (
    "tests/system/test_containerd.py",
    "tests/system/test_configuration.py",
    "tests/system/test_grants_walk.py::test_the_walk",
    "tests/unit/test_vectors.py",
    "tests/unit/provider/test_client_command.py",
    "tests/unit/provider/test_client_grpc.py",
)


def test_the_system_tests_pass_with_it(built: Built, tmp_path: Path) -> None:
    for package in built.directory.glob("*.deb"):
        subprocess.run(["dpkg-deb", "--extract", package, tmp_path], check=True)
    check_with(tmp_path / "usr/bin/ctd-decoder", *_TESTS)
