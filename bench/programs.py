"""The decoders that are compared, and how ours is started."""

from __future__ import annotations

import gzip
import platform
import sys
import sysconfig
from pathlib import Path

# Where tests/install-system-packages unpacks the reference program.
_IMGCRYPT = Path(__file__).parent.parent / ".cache/imgcrypt/usr"
REFERENCE = _IMGCRYPT / "bin/ctd-decoder"
PIP_PROGRAM = Path(sys.executable).with_name("ctd-decoder")

_SCRIPT = """\
#!{python} -IS
import sys

sys.path.append({tree!r})
from decoder.__main__ import main

main()
"""


def write_script(directory: Path) -> Path:
    """Write our program as a package installs it: isolated, without `site`, one tree on its path.

    The tree is that of the virtual environment, with the program and its dependencies.
    """
    program = directory / "ctd-decoder"
    python = Path(sys.executable).resolve()
    program.write_text(_SCRIPT.format(python=python, tree=sysconfig.get_path("purelib")))
    program.chmod(0o755)
    return program


def describe_programs() -> str:
    """Name the version of the reference program, and of the Python that runs ours."""
    with gzip.open(_IMGCRYPT / "share/doc/imgcrypt/changelog.Debian.gz", "rt") as changelog:
        version = changelog.readline().split()[1]
    return f"reference: imgcrypt {version.strip('()')}; ours: Python {platform.python_version()}"
