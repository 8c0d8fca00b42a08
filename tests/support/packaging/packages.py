"""The packages, built from the working tree."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from decoder import __version__
from tests.support.program.processes import ROOT

_BUILD_SECONDS = 3600
_TESTS_SECONDS = 3600


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


def check_with(program: Path, *tests: str) -> None:
    """Run tests with this program in place of the one in the virtual environment; they must pass."""
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
        capture_output=True,
        text=True,
        timeout=_TESTS_SECONDS,
        check=False,
        cwd=ROOT,
        env={**os.environ, "CTD_DECODER_PROGRAM": str(program)},
    )
    assert result.returncode == 0, result.stdout[-4000:]
    assert " passed" in result.stdout


def make_image(packages: Path, output: Path) -> Path:
    """Make images and trees of the packages in a directory, and return the OCI archive."""
    command: list[str | Path] = [ROOT / "packaging/image", "--packages", packages, "--output", output]
    result = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (archive,) = output.glob("*.oci.tar")
    return archive


def unpack_tree(images: Path, architecture: str, directory: Path) -> Path:
    """Unpack the tree with its own C library that was made with the images."""
    name = f"ctd-decoder-{__version__}"
    archive = images / f"{name}-linux-{architecture}.tar.gz"
    subprocess.run(
        ["tar", "--extract", "--file", archive, "--directory", directory], check=True, timeout=_BUILD_SECONDS
    )
    return directory / name


PREVIOUS = "7bc4a52"  # the commit of version 0.1.0
_PREVIOUS_SECONDS = 1800


def previous() -> Built:
    """Return the packages of the previous version, built from its sources below .cache at their first use."""
    directory = ROOT / ".cache/previous"
    directory.parent.mkdir(exist_ok=True)
    with directory.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not list(directory.glob("dist/*.deb")):
            directory.mkdir(exist_ok=True)
            script = 'git archive "$0" | tar --extract --directory "$1" && cd "$1" && exec packaging/build'
            environment = {**os.environ, "SOURCE_DATE_EPOCH": "1764000000"}
            command: list[str | Path] = ["bash", "-o", "pipefail", "-c", script, PREVIOUS, directory]
            made = subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                timeout=_PREVIOUS_SECONDS,
                check=False,
            )
            assert made.returncode == 0, f"the whole history is needed: {made.stdout}{made.stderr}"
    return Built(directory / "dist")
