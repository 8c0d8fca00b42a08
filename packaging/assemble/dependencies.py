"""The decoder itself and the wheels that it needs, in the versions and with the hashes of the lock file."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tomllib
from email.parser import HeaderParser
from pathlib import Path
from typing import Any, NamedTuple

from assemble.places import CACHE, GLIBC, MACHINES, PYTHON, ROOT, run

_LOCK = ROOT / "requirements/dev.txt"  # the lock file with all extras
_OLDEST_MANYLINUX = 5
_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
_LEGACY = {"x86_64": ("manylinux2014", "manylinux2010", "manylinux1"), "aarch64": ("manylinux2014",)}


class Distribution(NamedTuple):
    """A locked distribution, with its metadata (PyPA core metadata, in its JSON form)."""

    name: str
    version: str
    sha256: str
    metadata: dict[str, Any]


def extras() -> set[str]:
    """List the extras of the project."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return set(project["optional-dependencies"])


def build_wheel() -> Path:
    """Build the decoder's own wheel."""
    directory = CACHE / "wheel"
    for old in directory.glob("*.whl"):
        old.unlink()
    run(*_PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", directory, ROOT)
    (wheel,) = directory.glob("*.whl")
    return wheel


def resolve(wheel: Path, wanted: set[str], architecture: str) -> list[Distribution]:
    """Find what the decoder needs with some of its extras.

    Args:
        wheel: the decoder's.
        wanted: the extras.
        architecture: amd64 or arm64.

    Raises:
        SystemExit: something is not in the lock file, or not with this hash.
        subprocess.CalledProcessError: pip failed.
    """
    lock = _LOCK.read_text()
    constraints = CACHE / "constraints.txt"
    constraints.write_text("\n".join(re.findall(r"^[A-Za-z0-9][^\s\\]*==[^\s\\]+", lock, re.MULTILINE)) + "\n")
    report = CACHE / "report.json"
    project = f"{wheel}[{','.join(sorted(wanted))}]" if wanted else str(wheel)
    resolving: list[str | Path] = ["--dry-run", "--ignore-installed", "--report", report, "--constraint", constraints]
    run(*_PIP, "install", *resolving, *_target(CACHE / "nowhere", architecture), project)
    found = [_distribution(item) for item in json.loads(report.read_text())["install"]]
    others = [distribution for distribution in found if distribution.sha256 != _sha256(wheel)]
    for distribution in others:
        if f"--hash=sha256:{distribution.sha256}" not in lock:
            raise SystemExit(f"{distribution.name} {distribution.version} is not in {_LOCK.name}: run make lock")
    return sorted(others)


_OF_PIP = ("*.dist-info/RECORD", "*.dist-info/direct_url.json", "*.dist-info/REQUESTED", "bin/*")
# rich highlights no code for us, zstandard has another backend for CPython, and jwcrypto brings its tests along.
_NEVER_USED = (
    *("pygments/lexers/[!_]*.py", "pygments/lexers/_*_builtins.py"),
    *("zstandard/_cffi*", "zstandard/backend_cffi.py", "jwcrypto/tests*.py"),
)


def install(wheel: Path, distributions: list[Distribution], directory: Path, architecture: str) -> None:
    """Unpack the decoder and what it needs.

    Raises:
        subprocess.CalledProcessError: pip failed.
    """
    requirements = CACHE / "install.txt"
    lines = [f"{item.name}=={item.version} --hash=sha256:{item.sha256}" for item in distributions]
    requirements.write_text("\n".join([f"{wheel.as_uri()} --hash=sha256:{_sha256(wheel)}", *lines]) + "\n")
    run(
        *_PIP,
        *("install", "--no-deps", "--no-compile", "--require-hashes", "--requirement", requirements),
        *_target(directory, architecture),
    )
    for leftover in (*_OF_PIP, *_NEVER_USED):
        for path in directory.glob(leftover):
            path.unlink()
    for scripts in directory.glob("bin"):
        scripts.rmdir()


def with_metadata(distributions: list[Distribution], *directories: Path) -> list[Distribution]:
    """Read the licence from the unpacked wheels, because pip's report omits it (PEP 639) before pip 24.3."""
    found: dict[tuple[str, str], str | None] = {}
    for path in (path for directory in directories for path in directory.glob("*.dist-info/METADATA")):
        headers = HeaderParser().parsestr(path.read_text(errors="replace"))
        found[_folded(headers["Name"]), headers["Version"]] = headers["License-Expression"]
    return [
        item._replace(metadata={**item.metadata, "license_expression": found[_folded(item.name), item.version]})
        for item in distributions
    ]


def _folded(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _target(directory: Path, architecture: str) -> list[str | Path]:
    machine = MACHINES[architecture]
    tags = [f"manylinux_{GLIBC[0]}_{minor}" for minor in range(GLIBC[1], _OLDEST_MANYLINUX - 1, -1)]
    platforms = [f"--platform={tag}_{machine}" for tag in (*tags, *_LEGACY[machine])]
    return [
        "--target",
        directory,
        "--only-binary=:all:",
        f"--python-version={PYTHON}",
        "--implementation=cp",
        *platforms,
    ]


def _distribution(item: dict[str, Any]) -> Distribution:
    metadata = item["metadata"]
    return Distribution(
        metadata["name"], metadata["version"], item["download_info"]["archive_info"]["hash"].partition("=")[2], metadata
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
