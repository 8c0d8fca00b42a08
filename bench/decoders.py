"""The decoders that are compared, as users have them: nothing is switched on for them."""

from __future__ import annotations

import gzip
import os
import platform
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from bench.run import RunError
from decoder import __version__

ROOT = Path(__file__).parent.parent
IMGCRYPT = ROOT / ".cache/imgcrypt/usr"  # where tests/install-system-packages unpacks the reference program
REFERENCE, PACKAGE, WARM, PIP = "reference", "package", "warm", "pip"
PIP_PROGRAM = Path(sys.executable).with_name("ctd-decoder")
_UNPACKED = ROOT / ".cache/bench/package"
_PACKAGES = ("ctd-decoder", "ctd-decoder-providers")
_SOURCES = ("decoder", "packaging", "requirements", "pyproject.toml")


def all_programs() -> dict[str, Path]:
    """Return what is compared by name, the reference first.

    The package's program counts from entirely cold: `stop_agent` comes before each turn. `warm` is the same program in
    the turn after it, whose agent is still there.

    Raises:
        RunError: the packages cannot be built.
    """
    program = package_tree() / "usr/bin/ctd-decoder"
    return {REFERENCE: IMGCRYPT / "bin/ctd-decoder", PACKAGE: program, WARM: program, PIP: PIP_PROGRAM}


def stop_agent() -> None:
    """End the agents that earlier layers have left behind."""
    subprocess.run([package_tree() / "usr/bin/ctd-decoder", "agent", "stop"], capture_output=True, check=False)


def in_a_run_of_our_own() -> None:
    """Start this program again with an empty /run, unless it has one: agents of the machine are not ours to stop."""
    if os.geteuid() or os.environ.get("BENCH_RUN"):
        return
    script = 'mount -t tmpfs -o mode=755 tmpfs /run && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-m", "bench", *sys.argv[1:]]
    os.execvpe(command[0], command, {**os.environ, "BENCH_RUN": "own"})  # noqa: S606


def describe() -> str:
    """Name the versions of the reference program and of ours."""
    with gzip.open(IMGCRYPT / "share/doc/imgcrypt/changelog.Debian.gz", "rt") as changelog:
        version = changelog.readline().split()[1].strip("()")
    return (
        f"reference: imgcrypt {version}; ours: ctd-decoder {__version__}, pip's on Python {platform.python_version()}"
    )


@cache
def package_tree() -> Path:
    """Return the tree that the packages unpack to, built again if a source is newer than they are.

    Raises:
        RunError: they cannot be built.
    """
    packages = _packages()
    if len(packages) < len(_PACKAGES) or min(map(_time, packages)) < _newest_source():
        print("bench: building the packages", file=sys.stderr)
        _run("packaging/build")
        packages = _packages()
    if not _UNPACKED.exists() or _time(_UNPACKED) < max(map(_time, packages)):
        shutil.rmtree(_UNPACKED, ignore_errors=True)
        _UNPACKED.mkdir(parents=True)
        for package in packages:
            _run("dpkg-deb", "--extract", str(package), str(_UNPACKED))
        _UNPACKED.touch()  # the archives have the directory's own time in them
    return _UNPACKED


def _packages() -> list[Path]:
    return [file for name in _PACKAGES for file in (ROOT / "dist").glob(f"{name}_{__version__}-*.deb")]


def _time(file: Path) -> float:
    return file.stat().st_mtime


def _newest_source() -> float:
    files = [file for name in _SOURCES for file in (ROOT / name, *(ROOT / name).rglob("*"))]
    return max(_time(file) for file in files if file.is_file() and file.suffix != ".pyc")


def _run(*command: str) -> None:
    """Run a command from the project's directory; the tables have standard output for themselves."""
    try:
        subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise RunError(f"{command[0]}: {error}") from error
