"""The entry point of pip's script: the program, in an interpreter that ignores PYTHON* and the current directory."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the program. If the interpreter was not started with `-I`, start it again with that option.

    The client in platform wheels (packaging/client) passes the option itself, so that nothing is started twice.
    """
    flags = sys.flags
    if not (flags.ignore_environment and flags.safe_path):
        os.execv(sys.executable, [sys.executable, *options(__file__), *sys.argv])  # noqa: S606 - our own interpreter
    from decoder.__main__ import main as run

    run()


def options(module: str) -> list[str]:
    """Return the interpreter's options: `-I`, or `-E -P` if `pip install --user` has installed this program.

    `-I` would hide the user's site-packages.

    Args:
        module: the path of a module of this program.
    """
    from site import getusersitepackages

    return ["-E", "-P"] if module.startswith(f"{getusersitepackages()}/") else ["-I"]
