"""The paths of sources here, and of files in the packages."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

from decoder import project

ROOT = Path(__file__).parent.parent.parent
PACKAGING = ROOT / "packaging"
CACHE = ROOT / ".cache/packaging"

PREFIX = "usr/lib/ctd-decoder"
PYTHON = "3.11"  # Debian 12's, which packaging/fetch-debian unpacks; the version that wheels are chosen for
LIBRARY = f"{PREFIX}/lib/python{PYTHON}"
GLIBC = (2, 28)  # the oldest C library that the packages run on

# decoder/project.py names the publisher. Debian's packages must name somebody.
MAINTAINER = project.MAINTAINER or "Unknown builder <root@localhost>"
URL = project.URL

# Debian's names of machines, with what the ELF world calls them.
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
NATIVE = {machine: debian for debian, machine in MACHINES.items()}.get(platform.machine(), "")


def run(*command: str | Path, directory: Path = ROOT, environment: dict[str, str] | None = None) -> None:
    """Run a tool that says nothing unless it fails.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    subprocess.run(command, check=True, cwd=directory, env={**os.environ, **(environment or {})})


def tool(name: str) -> str:
    """Return the path of a program in the virtual environment that runs this."""
    return str(Path(sys.executable).with_name(name))
