#!/usr/lib/ctd-decoder/bin/python3 -I
"""Install the decoder on a Kubernetes node, take it away again, or wait: what the image's DaemonSet runs."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

_TREE = Path("/usr/lib/ctd-decoder")
_PROGRAM = "bin/ctd-decoder"
_CLIENT = "bin/client"  # what containerd starts: it asks the agent, or becomes the program beside it
_SCRATCH = ".partial-"
_LIST = ".ctd-decoder-files"
_START_SECONDS = 60


class InstallError(Exception):
    """The node is not in a state to install to."""


def main() -> int:
    """Do what the command line says, and return the exit status: 0, or 1 with a line on standard error."""
    parser = argparse.ArgumentParser(prog="install-on-node", description=__doc__)
    parser.add_argument("verb", choices=("install", "remove", "wait"))
    parser.add_argument(
        "--into", type=Path, metavar="DIR", help="the node's /opt/containerd, whose bin is on PATH there"
    )
    parser.add_argument("--tree", type=Path, default=_TREE, metavar="DIR", help=f"what is installed ({_TREE})")
    parser.add_argument(
        "--files",
        type=Path,
        nargs=2,
        action="append",
        default=[],
        metavar=("FROM", "TO"),
        help="copy the files of a directory or a mounted Secret as well; what FROM no longer has is taken from TO",
    )
    arguments = parser.parse_args()
    if arguments.verb != "wait" and not arguments.into:
        parser.error("--into is missing")
    os.umask(0o022)
    try:
        if arguments.verb == "wait":
            _wait()
        elif arguments.verb == "install":
            for source, target in arguments.files:
                put_files(source, target)
            install(arguments.tree, arguments.into)
        else:
            remove(arguments.into)
            for _, target in arguments.files:
                take_files(target)
    except (InstallError, OSError, subprocess.SubprocessError) as error:
        print(f"install-on-node: error: {error}", file=sys.stderr)
        return 1
    return 0


def install(tree: Path, into: Path) -> None:
    """Copy a tree to INTO/ctd-decoder/DIGEST, and have the link INTO/bin/ctd-decoder lead to its client.

    The link changes in one step, once the copy is complete and its program starts. The tree that it led to before stays
    until the next change: decoders that run then load modules from it.

    Raises:
        InstallError: something else has the name of the link, or the copied program does not start.
        subprocess.TimeoutExpired: it does not end.
        OSError: copying failed.
    """
    trees, link = into / "ctd-decoder", into / _PROGRAM
    before = _installed(into)
    name = _digest(tree)
    trees.mkdir(parents=True, exist_ok=True)
    for scratch in trees.glob(f"{_SCRATCH}*"):
        shutil.rmtree(scratch)
    if not (trees / name).is_dir() or _digest(trees / name) != name:
        _copy(tree, trees, name)
    if before != name:
        link.parent.mkdir(exist_ok=True)
        scratch = link.with_name(f"{_SCRATCH}{link.name}")
        scratch.unlink(missing_ok=True)
        scratch.symlink_to(f"../ctd-decoder/{name}/{_CLIENT}")
        scratch.replace(link)
        for old in {path.name for path in trees.iterdir()} - {name, before}:
            shutil.rmtree(trees / old)
    print(f"install-on-node: {link} is of the tree {name}")


def remove(into: Path) -> None:
    """Take away what `install` made, the link first.

    Raises:
        InstallError: something else has the name of the link.
        OSError: removing failed.
    """
    if _installed(into):
        (into / _PROGRAM).unlink()
    if (into / "ctd-decoder").is_dir():
        shutil.rmtree(into / "ctd-decoder")
    print(f"install-on-node: removed from {into}")


def put_files(source: Path, target: Path) -> None:
    """Copy files, readable by root alone, each in one step; a list in TARGET keeps what was copied.

    Args:
        source: a directory; of a volume that Kubernetes mounts (`..data`) one state is copied.
        target: is made if it is not there.

    Raises:
        InstallError: a file is there that was not copied by this program, or the list is damaged.
        OSError: copying failed.
    """
    source = (source / "..data" if (source / "..data").exists() else source).resolve(strict=True)
    files = {str(path.relative_to(source)): path.read_bytes() for path in sorted(source.rglob("*")) if path.is_file()}
    before = _listed(target)
    for name, content in files.items():
        place = target / name
        if name not in before and place.exists() and place.read_bytes() != content:
            raise InstallError(f"{place} is there already and is not of this installation: move it away")
    target.mkdir(parents=True, exist_ok=True)
    _write(target / _LIST, json.dumps(sorted({*files, *before})).encode())
    for name, content in files.items():
        (target / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(target / name, content)
    for name in before - files.keys():
        (target / name).unlink(missing_ok=True)
    _write(target / _LIST, json.dumps(sorted(files)).encode())
    print(f"install-on-node: {target} has {', '.join(files) or 'no files'}")


def take_files(target: Path) -> None:
    """Remove what `put_files` copied.

    Raises:
        InstallError: the list of it is damaged.
        OSError: removing failed.
    """
    for name in _listed(target):
        (target / name).unlink(missing_ok=True)
    (target / _LIST).unlink(missing_ok=True)
    print(f"install-on-node: removed the files from {target}")


def _wait() -> None:
    """Wait until the pod ends: a DaemonSet has no containers that end."""
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    signal.sigwait(signals)


def _installed(into: Path) -> str:
    """Return the name of the tree that the link leads to, or "" if there is no link."""
    link = into / _PROGRAM
    if not os.path.lexists(link):
        return ""
    parts = link.readlink().parts if link.is_symlink() else ()
    if len(parts) != 5 or parts[:2] != ("..", "ctd-decoder"):
        raise InstallError(f"{link} is there already and is not of this installation: move it away")
    return parts[2]


def _copy(tree: Path, trees: Path, name: str) -> None:
    scratch = trees / f"{_SCRATCH}{name}"
    shutil.copytree(tree, scratch, symlinks=True, copy_function=shutil.copy)
    result = subprocess.run(
        [scratch / _PROGRAM, "--version"], capture_output=True, text=True, timeout=_START_SECONDS, check=False
    )
    if result.returncode:
        raise InstallError(f"the copied program does not start: {result.stderr.strip()}")
    if (trees / name).is_dir():  # damaged
        (trees / name).rename(trees / f"{_SCRATCH}damaged")
        shutil.rmtree(trees / f"{_SCRATCH}damaged", ignore_errors=True)
    scratch.rename(trees / name)


def _digest(tree: Path) -> str:
    """Digest the names, kinds and contents of a tree."""
    total = hashlib.sha256()
    for path in sorted(tree.rglob("*")):
        is_read = path.is_file() and not path.is_symlink()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if is_read else ""
        target = path.readlink() if path.is_symlink() else ""
        entry = f"{path.relative_to(tree)}\0{path.lstat().st_mode:o}\0{target}\0{content}\n"
        total.update(entry.encode(errors="surrogateescape"))
    return total.hexdigest()[:16]


def _listed(target: Path) -> set[str]:
    try:
        return set(json.loads((target / _LIST).read_bytes()))
    except FileNotFoundError:
        return set()
    except (ValueError, TypeError):
        raise InstallError(f"{target / _LIST} is damaged: remove it, and what was installed beside it") from None


def _write(path: Path, content: bytes) -> None:
    scratch = path.with_name(f"{_SCRATCH}{path.name}")
    scratch.unlink(missing_ok=True)
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    scratch.replace(path)


if __name__ == "__main__":
    sys.exit(main())
