"""The containerd of this node: the running one, or else the installed one. k3s and RKE2 bring their own."""

from __future__ import annotations

import os
import shutil
from typing import NamedTuple

from decoder.node import process

DEFAULT_FILE = "/etc/containerd/config.toml"
# systemd's PATH for services: used if no containerd is running.
_SERVICE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_RANCHER = {"k3s": "k3s", "rke2": "RKE2"}  # Kubernetes distributions, by their directory in /var/lib/rancher
_NAME = "containerd"


class Containerd(NamedTuple):
    """The containerd of this node.

    Attributes:
        pid: its process number, or 0 if it is not running.
        others: how many other containerds are running.
        program: the path of the program, or "" if there is none.
        distribution: the product that contains it: `containerd`, `k3s` or `RKE2`.
        file: the path of its configuration file.
        is_file_named: whether a command line names that file, so that it must exist.
        path: its PATH.
        directory: its working directory.
        root: the root directory on its command line, or "".
        address: the socket on its command line, or "".
        is_rootless: whether it belongs to a user other than root, or runs in a user namespace.
        prefix: the prefix for paths to see containerd's mounts; "" if this process sees the same mounts.
    """

    pid: int
    others: int
    program: str
    distribution: str
    file: str
    is_file_named: bool
    path: str
    directory: str
    root: str
    address: str
    is_rootless: bool
    prefix: str


def find_containerd(named_file: str) -> Containerd:
    """Find the containerd of this node.

    Args:
        named_file: its configuration file, or "" to find it.
    """
    processes = [pid for pid in _processes() if not named_file or _file_of(pid) == named_file]
    if not processes:
        return _installed(named_file)
    pid = min(processes, key=_preference)
    _, *arguments = process.command_line(pid) or [""]
    file = process.option(arguments, "config", "c") or ""
    distribution = _distribution(f"{_link(pid, 'exe')} {file}")
    return Containerd(
        pid=pid,
        others=len(processes) - 1,
        program=_program_of(pid),
        distribution=distribution,
        file=named_file or file or DEFAULT_FILE,
        is_file_named=bool(named_file or file),
        path=process.environment(pid).get("PATH", _SERVICE_PATH),
        directory=_link(pid, "cwd") or "/",
        root=process.option(arguments, "root") or "",
        address=process.option(arguments, "address", "a") or "",
        is_rootless=_owner(pid) != 0 or not _is_same(pid, "user"),
        prefix="" if _is_same(pid, "mnt") else f"/proc/{pid}/root",
    )


def _installed(named_file: str) -> Containerd:
    """Return the installed containerd, which is not running."""
    program = shutil.which(_NAME) or shutil.which(_NAME, path=_SERVICE_PATH) or ""
    distribution, file = _NAME, DEFAULT_FILE
    for directory, name in _RANCHER.items():
        generated = f"/var/lib/rancher/{directory}/agent/etc/containerd/config.toml"
        bundled = [f"/var/lib/rancher/{directory}/{place}/{_NAME}" for place in ("data/current/bin", "bin")]
        found = next(filter(os.path.exists, bundled), "")
        if found and (named_file == generated or not program):
            program, distribution, file = found, name, generated
    return Containerd(
        pid=0,
        others=0,
        program=program,
        distribution=distribution,
        file=named_file or file,
        is_file_named=bool(named_file),
        path=_SERVICE_PATH,
        directory="/",
        root="" if distribution == _NAME else f"/var/lib/rancher/{distribution.lower()}/agent/containerd",
        address="",
        is_rootless=False,
        prefix="",
    )


def _processes() -> list[int]:
    """Return the running containerds. Zombies are left out: they have no command line."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/comm") as file:
                    if file.read().strip() == _NAME and process.command_line(int(name)):
                        found.append(int(name))
            except OSError:
                continue
    return found


def _preference(pid: int) -> tuple[bool, bool, int]:
    """Return the order of preference: this user's containerd first, then one with the same mounts, then the oldest."""
    return (_owner(pid) != os.geteuid(), not _is_same(pid, "mnt"), pid)


def _file_of(pid: int) -> str:
    return process.option(process.command_line(pid)[1:], "config", "c") or DEFAULT_FILE


def _program_of(pid: int) -> str:
    """Return the program of a process; k3s has one file for many commands, which are distinguished by name."""
    program = _link(pid, "exe").removesuffix(" (deleted)")
    by_name = os.path.join(os.path.dirname(program), _NAME)
    return by_name if os.path.exists(by_name) else program or shutil.which(_NAME) or ""


def _distribution(text: str) -> str:
    return next((name for directory, name in _RANCHER.items() if f"/rancher/{directory}/" in text), _NAME)


def _link(pid: int, name: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/{name}")
    except OSError:
        return ""


def _owner(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return -1


def _is_same(pid: int, namespace: str) -> bool:
    """Check whether a process is in the same namespace as this one; an unreadable namespace counts as the same."""
    theirs = _link(pid, f"ns/{namespace}")
    return not theirs or theirs == _link(os.getpid(), f"ns/{namespace}")
