"""Other processes, read from /proc: their command lines, environments and parents (proc(5))."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from decoder import limits

if TYPE_CHECKING:
    from collections.abc import Sequence


def command_line(process: int) -> list[str]:
    """Return the program and the arguments of a process; [] if it is gone or may not be read."""
    return _texts(process, "cmdline")


def environment(process: int) -> dict[str, str]:
    """Return the environment with which a process was started; {} if it is gone or may not be read."""
    return {
        name: value for name, equals, value in (text.partition("=") for text in _texts(process, "environ")) if equals
    }


def parent(process: int) -> int:
    """Return the process number of a process's parent; 0 if it cannot be read."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            return int(file.read(limits.COMMAND_LINE_BYTES).rpartition(b")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def option(arguments: Sequence[str], *names: str) -> str | None:
    """Return the value of an option on a Go program's command line: `--NAME VALUE`, `-NAME=VALUE` and so on.

    Args:
        arguments: the command line.
        names: the option's names, without dashes.
    """
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        name, equals, value = argument.partition("=")
        if name.startswith("-") and name.lstrip("-") in names and len(name) - len(name.lstrip("-")) < 3:
            return value if equals else following
    return None


def _texts(process: int, name: str) -> list[str]:
    try:
        with open(f"/proc/{process}/{name}", "rb") as file:
            data = os.fsdecode(file.read(limits.COMMAND_LINE_BYTES))
    except OSError:
        return []
    return data.removesuffix("\0").split("\0") if data else []
