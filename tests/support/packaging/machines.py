"""A root file system to install packages into, and commands that run there."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

KEYS = "etc/containerd/ocicrypt/keys"
PROGRAM = "/usr/bin/ctd-decoder"

_SECONDS = 600
_DECRYPT = f'{PROGRAM} --decryption-keys-path "$1" 3<payload <ciphertext >decrypted'
# What the package manager itself keeps about packages, and caches that any installation renews.
_NOT_COMPARED = ("var/lib/dpkg", "var/log", "var/cache", "var/lib/rpm", "proc", "dev", "layer")


class Machine:
    """A root file system in which programs are run.

    Args:
        root: its directory, which may be changed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, *command: str, expect: int = 0, sees_others: bool = True) -> str:
        """Run a command in the root, with /proc, and return what it printed.

        Args:
            command: to run.
            expect: the exit status.
            sees_others: whether it sees the processes outside, such as the agent that an earlier command left, and
                whatever else runs on this machine.
        """
        script = 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
        apart = () if sees_others else ("--pid", "--fork", "--kill-child")
        enter = ["unshare", "--mount", *apart, "sh", "-c", script, str(self.root), *command]
        result = subprocess.run(
            enter,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"},
        )
        assert result.returncode == expect, f"{command}: {result.returncode}\n{result.stdout}{result.stderr}"
        return result.stdout + result.stderr

    def add(self, file: Path) -> str:
        """Copy a file into the root, and return its path there."""
        shutil.copy(file, self.root / file.name)
        return f"/{file.name}"

    def decrypt(self, layer_files: Path) -> bool:
        """Have the installed program decrypt a layer with a key of the keys directory, and compare."""
        place = self.root / "layer"
        shutil.copytree(layer_files, place, dirs_exist_ok=True)
        key = self.root / KEYS / "key.pem"
        key.write_bytes((layer_files / "key.pem").read_bytes())
        key.chmod(0o600)
        self.run("/bin/sh", "-c", f"cd /layer && {_DECRYPT}", "sh", f"/{KEYS}")
        key.unlink()
        return (place / "decrypted").read_bytes() == (layer_files / "plaintext").read_bytes()

    def files(self) -> dict[str, str]:
        """List every file with its mode, owner and content or target, for comparison."""
        found = {}
        for folder, folders, names in os.walk(self.root):
            base = os.path.relpath(folder, self.root)
            folders[:] = [name for name in folders if os.path.normpath(f"{base}/{name}") not in _NOT_COMPARED]
            for name in (*folders, *names):
                path = Path(folder, name)
                found[os.path.normpath(f"{base}/{name}")] = _describe(path)
        return found


def _describe(path: Path) -> str:
    status = path.lstat()
    owner = f"{stat.filemode(status.st_mode)} {status.st_uid}:{status.st_gid}"
    if path.is_symlink():
        return f"{owner} -> {path.readlink()}"
    return f"{owner} {status.st_size}" if path.is_file() else owner
