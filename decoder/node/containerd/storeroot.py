"""The root directory of the containerd that started the decoder, where its content store is."""

from __future__ import annotations

import os

from decoder import limits
from decoder.node import process
from decoder.node.containerd.contentstore import BLOBS

DEFAULT_ROOT = "/var/lib/containerd"
_DEFAULT_CONFIGURATION = "/etc/containerd/config.toml"


def find_root(client: int = 0) -> str:
    """Find the root directory of the containerd that started the decoder.

    The sources, in this order: containerd's open files, because it reads the layer's blob while this process runs; its
    option `--root`; `root` in its configuration file; the default.

    Args:
        client: the number of the process that containerd started; 0 for this one.

    Returns:
        The directory, which is not checked.
    """
    pid = process.parent(client) if client else os.getppid()
    for _ in range(limits.CONTAINERD_ANCESTORS):
        if root := _from_open_files(pid) or _from_command_line(pid):
            return root
        pid = process.parent(pid)  # may be 1: in containers, containerd is often the first process
        if not pid:
            break
    return DEFAULT_ROOT


def _from_open_files(pid: int) -> str | None:
    folder = f"/proc/{pid}/fd"
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


def _from_command_line(pid: int) -> str | None:
    """Return the root directory that the command line of a containerd or its configuration file names."""
    program, *arguments = process.command_line(pid) or [""]
    if os.path.basename(program) != "containerd":
        return None
    configuration = process.option(arguments, "config", "c") or _DEFAULT_CONFIGURATION
    return process.option(arguments, "root") or _from_configuration(configuration)


def _from_configuration(path: str) -> str | None:
    import tomllib

    try:
        with open(path, "rb") as file:
            root = tomllib.loads(file.read(limits.CONFIGURATION_BYTES).decode()).get("root")
    except (OSError, ValueError, RecursionError):
        return None
    return root if isinstance(root, str) and root else None
