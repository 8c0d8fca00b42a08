"""The decoders that are compared."""

from __future__ import annotations

import gzip
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.figures import REFERENCE
from bench.package import package_tree
from bench.warm import warm_program
from decoder import __version__

# Where tests/install-system-packages unpacks the reference program.
_IMGCRYPT = Path(__file__).parent.parent / ".cache/imgcrypt/usr"
_REFERENCE = _IMGCRYPT / "bin/ctd-decoder"
PIP_PROGRAM = Path(sys.executable).with_name("ctd-decoder")


@contextmanager
def all_programs() -> Iterator[dict[str, Path]]:
    """Make ready what is compared, by name, the reference first; the agent runs while the context is open."""
    program = package_tree() / "usr/lib/ctd-decoder/bin/ctd-decoder"
    with warm_program(program) as warm:
        yield {REFERENCE: _REFERENCE, "package": program, "pip": PIP_PROGRAM, **warm}


def describe_programs() -> str:
    """Name the versions of the reference program and of ours."""
    with gzip.open(_IMGCRYPT / "share/doc/imgcrypt/changelog.Debian.gz", "rt") as changelog:
        version = changelog.readline().split()[1]
    return (
        f"reference: imgcrypt {version.strip('()')}; ours: ctd-decoder {__version__}, pip's on Python "
        f"{platform.python_version()}"
    )
