"""Install the decoder on a Kubernetes node, remove it again, or wait: the program of the DaemonSet."""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

from kubernetes_api import ApiError, BusyError, Files, WatchedSecret, ask

_TREE = Path("/usr/lib/ctd-decoder")
_PROGRAM = "bin/ctd-decoder"
_CLIENT = "bin/client"  # what containerd starts: it asks the agent, or becomes the program beside it
_SCRATCH = ".partial-"
_LIST = ".ctd-decoder-files"
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_API_ATTEMPTS = 12
_API_PAUSE_SECONDS = 5.0
_SIGNALS = {signal.SIGTERM, signal.SIGINT}
_START_SECONDS = 60
_POLL_SECONDS = 5.0  # between looks at mounted files and watched Secrets


class InstallError(Exception):
    """Something on the node prevents the installation."""


def main() -> int:
    """Run the command, and return the exit status: 0, or 1 with a line on standard error."""
    parser = argparse.ArgumentParser(prog="install-on-node", description=__doc__)
    parser.add_argument("verb", choices=("install", "remove", "follow", "wait", "untaint"))
    parser.add_argument(
        "--into", type=Path, metavar="DIR", help="the node's /opt/containerd; containerd has its bin on PATH"
    )
    parser.add_argument("--tree", type=Path, default=_TREE, metavar="DIR", help=f"tree to install (default: {_TREE})")
    parser.add_argument(
        "--files",
        type=Path,
        nargs=2,
        action="append",
        default=[],
        metavar=("FROM", "TO"),
        help="also copy the files of a directory or mounted Secret; files that FROM no longer has are removed from TO",
    )
    parser.add_argument(
        "--secret",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "FROM"),
        help="the Secret that is mounted at FROM, which `follow` watches; the kubelet alone updates it only later",
    )
    parser.add_argument(
        "--every",
        type=float,
        default=_POLL_SECONDS,
        metavar="SECONDS",
        help=f"how often `follow` checks the files (default: {_POLL_SECONDS:g})",
    )
    parser.add_argument("--node", metavar="NAME", help="the node from which `untaint` removes the taint")
    parser.add_argument("--taint", metavar="KEY", help="the key of that taint")
    parser.add_argument(
        "--account", type=Path, default=_ACCOUNT, metavar="DIR", help="token, ca.crt and namespace for the API server"
    )
    arguments = parser.parse_args()
    if arguments.verb == "untaint" and not (arguments.node and arguments.taint):
        parser.error("--node and --taint are missing")
    if arguments.verb in ("install", "remove") and not arguments.into:
        parser.error("--into is missing")
    os.umask(0o022)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # a log that is followed
    try:
        if arguments.verb == "wait":
            _wait()
        elif arguments.verb == "untaint":
            untaint(arguments.node, arguments.taint, arguments.account)
        elif arguments.verb == "follow":
            watched = {Path(place): WatchedSecret(name, arguments.account) for name, place in arguments.secret}
            follow(by_target(arguments.files), arguments.every, watched)
        elif arguments.verb == "install":
            for target, sources in by_target(arguments.files).items():
                put_files(read_files(sources), target)
            install(arguments.tree, arguments.into)
        else:
            remove(arguments.into)
            for target in by_target(arguments.files):
                take_files(target)
    except (InstallError, ApiError, OSError, http.client.HTTPException, subprocess.SubprocessError) as error:
        print(f"install-on-node: error: {error}", file=sys.stderr)
        return 1
    return 0


def install(tree: Path, into: Path) -> None:
    """Copy a tree to INTO/ctd-decoder/DIGEST, and point the link INTO/bin/ctd-decoder at its client.

    The link changes in one step, once the copy is complete and its program starts. The previous tree stays until the
    next change, because running decoders load modules from it.

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
    print(f"install-on-node: {link} points to the tree {name}")


def remove(into: Path) -> None:
    """Remove what `install` created, the link first.

    Raises:
        InstallError: something else has the name of the link.
        OSError: removing failed.
    """
    if _installed(into):
        (into / _PROGRAM).unlink()
    if (into / "ctd-decoder").is_dir():
        shutil.rmtree(into / "ctd-decoder")
    print(f"install-on-node: removed from {into}")


def put_files(files: Files, target: Path) -> None:
    """Copy files, readable by root alone, each in one step; a list in TARGET records what was copied.

    New and changed files are written before old ones are removed.

    Args:
        files: the contents by their place below TARGET.
        target: the directory, which is created if it does not exist.

    Raises:
        InstallError: a file of that name was not copied by this program, or the list is damaged.
        OSError: copying failed.
    """
    before = _listed(target)
    for name, content in files.items():
        place = target / name
        if name not in before and place.exists() and place.read_bytes() != content:
            raise InstallError(f"{place} exists and was not installed by this program: move it away")
    target.mkdir(parents=True, exist_ok=True)
    _write(target / _LIST, json.dumps(sorted({*files, *before})).encode())
    for name, content in files.items():
        (target / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(target / name, content)
    for name in before - files.keys():
        (target / name).unlink(missing_ok=True)
    _write(target / _LIST, json.dumps(sorted(files)).encode())
    print(f"install-on-node: {target} has {', '.join(sorted(files)) or 'no files'}")


def read_files(sources: Mapping[str, Path], watched: Mapping[Path, WatchedSecret] | None = None) -> Files:
    """Read files for `put_files`. From a volume that Kubernetes mounts (`..data`), all files of one state are read.

    Args:
        sources: source directories by their destination below the target; "." is the target itself.
        watched: the Secrets that are mounted at some of the directories; they may be newer than the mounted files.

    Raises:
        OSError: reading failed.
    """
    found: Files = {}
    for place, source in sources.items():
        state = (source / "..data" if (source / "..data").exists() else source).resolve(strict=True)
        files = {str(path.relative_to(state)): path.read_bytes() for path in sorted(state.rglob("*")) if path.is_file()}
        if watched and source in watched:
            files = watched[source].newest(files)
        found |= {os.path.normpath(f"{place}/{name}"): content for name, content in files.items()}
    return found


def by_target(pairs: Iterable[tuple[Path, Path]]) -> dict[Path, dict[str, Path]]:
    """Group pairs of FROM and TO, so that a TO below another one shares its list.

    Returns:
        The sources for `read_files`, by target.
    """
    groups: dict[Path, dict[str, Path]] = {}
    for source, target in sorted(pairs, key=lambda pair: len(pair[1].parts)):
        root = next((each for each in groups if target.is_relative_to(each)), target)
        groups.setdefault(root, {})[str(target.relative_to(root))] = source
    return groups


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


def follow(
    groups: Mapping[Path, Mapping[str, Path]], seconds: float, watched: Mapping[Path, WatchedSecret] | None = None
) -> None:
    """Copy files whenever they change, until SIGTERM or SIGINT.

    A failure is reported once and the copy is tried again; meanwhile the node keeps its files.

    Args:
        groups: the sources for `read_files`, by target.
        seconds: the time between two checks.
        watched: the Secrets that are mounted at sources, by source.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    for secret in (watched or {}).values():
        secret.start()
    copied: dict[Path, object] = {}
    while True:
        for target, sources in groups.items():
            state: object
            try:
                files = read_files(sources, watched)
                state = hashlib.sha256(repr(sorted(files.items())).encode()).digest()
                if copied.get(target) != state:
                    put_files(files, target)
            except (InstallError, OSError) as error:
                state = str(error)
                if copied.get(target) != state:
                    print(f"install-on-node: error: {error}; the files on the node stay", file=sys.stderr)
            copied[target] = state
        if signal.sigtimedwait(_SIGNALS, seconds):
            return


def untaint(node: str, taint: str, account: Path) -> None:
    """Remove a taint from a node, through the API server that the pod's environment names.

    If the API server does not answer, or the node changes meanwhile, this is tried again for about a minute.

    Args:
        node: the name of the node.
        taint: the key of the taint, with any effect.
        account: the directory with the service account's `token` and the API server's `ca.crt`.

    Raises:
        ApiError: the API server refuses.
        OSError: it cannot be reached, or the account cannot be read.
    """
    for _ in range(_API_ATTEMPTS - 1):
        try:
            return _untaint(node, taint, account)
        except (BusyError, OSError, http.client.HTTPException):
            time.sleep(_API_PAUSE_SECONDS)
    return _untaint(node, taint, account)


def _untaint(node: str, taint: str, account: Path) -> None:
    path = f"/api/v1/nodes/{quote(node, safe='')}"
    taints = ask(account, "GET", path).get("spec", {}).get("taints", [])
    found = [number for number, each in enumerate(taints) if each["key"] == taint]
    changes = [
        change
        for number in reversed(found)
        for change in (
            {"op": "test", "path": f"/spec/taints/{number}/key", "value": taint},
            {"op": "remove", "path": f"/spec/taints/{number}"},
        )
    ]
    if changes:
        ask(account, "PATCH", path, json.dumps(changes).encode())
    print(f"install-on-node: the node {node} {'has lost' if changes else 'does not have'} the taint {taint}")


def _wait() -> None:
    """Wait until the pod ends, because containers of a DaemonSet must not end themselves."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    signal.sigwait(_SIGNALS)


def _installed(into: Path) -> str:
    """Return the name of the tree that the link points to, or "" if there is no link."""
    link = into / _PROGRAM
    if not os.path.lexists(link):
        return ""
    parts = link.readlink().parts if link.is_symlink() else ()
    if len(parts) != 5 or parts[:2] != ("..", "ctd-decoder"):
        raise InstallError(f"{link} exists and was not installed by this program: move it away")
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
        raise InstallError(
            f"{target / _LIST} is damaged: remove it, and the files that were installed beside it"
        ) from None


def _write(path: Path, content: bytes) -> None:
    scratch = path.with_name(f"{_SCRATCH}{path.name}")
    scratch.unlink(missing_ok=True)
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    scratch.replace(path)


if __name__ == "__main__":
    sys.exit(main())
