"""Where the content store is that the layer comes from: that of the containerd which started us."""

from __future__ import annotations

import os

from decoder import limits
from decoder.node.contentstore import BLOBS

DEFAULT_ROOT = "/var/lib/containerd"
_DEFAULT_CONFIGURATION = "/etc/containerd/config.toml"
_ANCESTORS = 3  # a wrapper script may stand between containerd and us


def find_root(client: int = 0) -> str:
    """Find the root directory of the containerd that started the decoder.

    Its open files tell, for it is reading the layer's blob while we run; else its `--root`, else the
    `root` of its configuration file, else the default.

    Args:
        client: the process that containerd started, if that is not this one.

    Returns:
        The directory; nothing has been looked for in it yet.
    """
    process = _parent(client) if client else os.getppid()
    for _ in range(_ANCESTORS):
        if root := _from_open_files(process) or _from_command_line(process):
            return root
        process = _parent(process)  # may be 1: containerd is the first process of many a container
        if not process:
            break
    return DEFAULT_ROOT


def _from_open_files(process: int) -> str | None:
    folder = f"/proc/{process}/fd"
    try:
        descriptors = os.listdir(folder)
    except OSError:
        return None
    for descriptor in descriptors:
        try:
            target = os.readlink(os.path.join(folder, descriptor))
        except OSError:
            continue
        root, separator, _ = target.partition(f"/{BLOBS}/")
        if separator:
            return root
    return None


def _from_command_line(process: int) -> str | None:
    """Read `--root DIR`, or the configuration that `--config FILE` names, of a program called containerd."""
    try:
        with open(f"/proc/{process}/cmdline", "rb") as file:
            program, *arguments = os.fsdecode(file.read(limits.COMMAND_LINE_BYTES)).split("\0")
    except OSError:
        return None
    if os.path.basename(program) != "containerd":
        return None
    return _option(arguments, "root") or _from_configuration(
        _option(arguments, "config") or _option(arguments, "c") or _DEFAULT_CONFIGURATION
    )


def _option(arguments: list[str], name: str) -> str | None:
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument in (f"--{name}", f"-{name}"):
            return following
        if argument.startswith((f"--{name}=", f"-{name}=")):
            return argument.partition("=")[2]
    return None


def _from_configuration(path: str) -> str | None:
    import tomllib

    try:
        with open(path, "rb") as file:
            root = tomllib.loads(file.read(limits.CONFIGURATION_BYTES).decode()).get("root")
    except (OSError, ValueError):
        return None
    return root if isinstance(root, str) and root else None


def _parent(process: int) -> int:
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            return int(file.read(limits.COMMAND_LINE_BYTES).rpartition(b")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0
