"""Root file systems that mmdebstrap makes: a minimal Debian each, without Python, below .cache."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

from tests.support.program.processes import ROOT

_SECONDS = 3600
# As installed systems have it; the packages of older suites would put directories there.
_MERGE_USR = 'for name in bin sbin lib lib64; do mkdir -p "$1/usr/$name" && ln -s "usr/$name" "$1/$name"; done'
SUITES = ("bullseye", "bookworm", "trixie", "forky")


def pristine(suite: str) -> Path:
    """Return the minimal root of a suite; it is made at its first use, and nobody changes it."""
    root = ROOT / ".cache/roots" / suite
    root.parent.mkdir(parents=True, exist_ok=True)
    with root.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process of the tests may want it too
        if not root.is_dir():
            _make(suite, root)
    assert not list(root.glob("usr/bin/python3*")), "a clean root has no Python"
    return root


def _make(suite: str, root: Path) -> None:
    partial = root.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    options = ["--quiet", "--mode=root", "--format=directory", f"--setup-hook={_MERGE_USR}"]
    options += ["--variant=essential", "--include=libstdc++6"]
    # A mirror that is frozen is good enough here.
    options.append('--aptopt=Acquire::Check-Valid-Until "false"')
    # It mounts /proc and more, which must not stay if it is stopped.
    _run("unshare", "--mount", "mmdebstrap", *options, suite, partial, _mirror())
    partial.rename(root)


def copy(suite: str, directory: Path) -> Path:
    """Copy the root of a suite, to be changed."""
    target = directory / suite
    _run("cp", "--archive", "--reflink=auto", pristine(suite), target)
    return target


def _mirror() -> str:
    """Return Debian's mirror as this system has it."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Identifier: Packages"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return next(address for address in listed if address.rstrip("/").endswith("/debian"))


def _run(*command: str | Path) -> None:
    result = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
