"""What a process may do and see: the properties that decrypting depends on.

packaging/client/confinement.c builds the same description; the two must agree.
"""

from __future__ import annotations

import os

_STATUS = (
    *("Uid:", "Gid:", "Groups:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"),
    *("NoNewPrivs:", "Seccomp:", "Seccomp_filters:"),
)
_NAMESPACES = ("mnt", "net", "pid", "user", "uts", "ipc", "cgroup", "time")
_CORE = "Max core file size"  # the agent switches core dumps off
_BYTES = 8191  # the client has the same limit


def describe(process: int) -> list[str]:
    """Describe a process: one line per property. Processes with equal descriptions can replace each other.

    Args:
        process: its process number.

    Raises:
        OSError: the process is gone, or this one may not inspect it.
    """
    folder = f"/proc/{process}"
    status = [line for line in _lines(f"{folder}/status") if line.startswith(_STATUS)]
    limits = [line for line in _lines(f"{folder}/limits") if not line.startswith(_CORE)]
    root = os.stat(f"{folder}/root")
    return [*status, f"Label: {_label(folder)}", *_namespaces(folder), f"Root: {root.st_dev} {root.st_ino}", *limits]


def first_difference(ours: list[str], theirs: list[str]) -> str:
    """Return the first property in which two descriptions differ, such as `Seccomp`; "" if they are the same."""
    for mine, other in zip(ours, theirs, strict=False):
        if mine != other:
            return property_of(mine)
    return "" if len(ours) == len(theirs) else "length"


def property_of(line: str) -> str:
    """Return the property name at the start of a line of a description."""
    return (line.partition(":")[0] if ":" in line else line.partition("  ")[0])[:40]


def _namespaces(folder: str) -> list[str]:
    found = []
    for name in _NAMESPACES:
        try:
            target = os.readlink(f"{folder}/ns/{name}")
        except OSError:
            if name == _NAMESPACES[0]:
                raise  # the process may not be inspected; the later namespaces may be missing from the kernel
            target = ""
        found.append(f"Namespace: {target}")
    return found


def _label(folder: str) -> str:
    try:
        return _lines(f"{folder}/attr/current")[0]
    except (OSError, IndexError):
        return ""  # no security module


def _lines(path: str) -> list[str]:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, _BYTES).decode(errors="replace").rstrip("\0").splitlines()
    finally:
        os.close(file)
