"""The wheels, built from the working tree and installed by pip."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.support.program.processes import ROOT

SECONDS = 3600


def build(directory: Path) -> None:
    """Build all of them, with the tools that the packages were built with."""
    subprocess.run([ROOT / "packaging/wheels", directory], check=True, timeout=SECONDS, cwd="/")


def find(directory: Path, tag: str) -> Path:
    """Return the one wheel whose tag matches a pattern."""
    (wheel,) = directory.glob(f"*-{tag}.whl")
    return wheel


def install(wheel: Path, environment: Path) -> Path:
    """Install a wheel into a virtual environment that has its dependencies from this one, and return its program."""
    subprocess.run([sys.executable, "-m", "venv", environment], check=True, timeout=SECONDS)
    (site,) = environment.glob("lib/python*/site-packages")
    pip(environment / "bin/pip", "install", "--no-deps", "--no-index", wheel)
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return environment / "bin/ctd-decoder"


def pip(*command: str | Path) -> None:
    """Run pip.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    subprocess.run([*command, "--disable-pip-version-check", "--quiet"], check=True, timeout=SECONDS)
