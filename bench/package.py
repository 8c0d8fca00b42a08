"""Our program as the Debian packages install it, unpacked below .cache."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from bench.run import RunError
from decoder import __version__

_ROOT = Path(__file__).parent.parent
_UNPACKED = _ROOT / ".cache/bench/package"
_PACKAGES = ("ctd-decoder", "ctd-decoder-providers")
_SOURCES = ("decoder", "packaging", "requirements", "pyproject.toml")
_BUILD_SECONDS = 1800


def package_tree() -> Path:
    """Return the tree that the packages unpack to, built anew if a source is newer than they are.

    Raises:
        RunError: they cannot be built.
    """
    packages = _packages()
    if len(packages) < len(_PACKAGES) or min(map(_time, packages)) < _newest_source():
        print("bench: building the packages", file=sys.stderr)
        _run("packaging/build")
        packages = _packages()
    if not packages:
        raise RunError("packaging/build made no packages")
    if not _UNPACKED.exists() or _time(_UNPACKED) < max(map(_time, packages)):
        shutil.rmtree(_UNPACKED, ignore_errors=True)
        _UNPACKED.mkdir(parents=True)
        for package in packages:
            _run("dpkg-deb", "--extract", str(package), str(_UNPACKED))
        _UNPACKED.touch()  # the archives have the directory's own time in them
    return _UNPACKED


def _packages() -> list[Path]:
    command = ["dpkg", "--print-architecture"]
    machine = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return [file for name in _PACKAGES for file in (_ROOT / "dist").glob(f"{name}_{__version__}-*_{machine}.deb")]


def _time(file: Path) -> float:
    return file.stat().st_mtime


def _newest_source() -> float:
    files = [file for name in _SOURCES for file in (_ROOT / name, *(_ROOT / name).rglob("*"))]
    return max(_time(file) for file in files if file.is_file() and file.suffix != ".pyc")


def _run(*command: str) -> None:
    """Run a command from the project's directory; the table has standard output for itself."""
    try:
        subprocess.run(command, cwd=_ROOT, stdout=sys.stderr, timeout=_BUILD_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise RunError(f"{command[0]}: {error}") from None
