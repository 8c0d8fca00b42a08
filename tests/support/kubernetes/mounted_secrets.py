"""Secrets as Kubernetes mounts them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.support.network.certificates import issue


class Volume:
    """A volume with a Secret, written as the kubelet writes it.

    Args:
        directory: is made.
        group: the pod's fsGroup; the kubelet gives the files to it, and lets it read them.
    """

    def __init__(self, directory: Path, group: int = 0) -> None:
        self.directory = directory
        self._group = group
        self._versions = 0
        directory.mkdir()

    def write(self, files: dict[str, bytes]) -> None:
        """Write a state of the Secret beside the one that there is, and put it in its place in one step."""
        self._versions += 1
        state = self.directory / f"..2026_01_01_00_00_00.{self._versions}"
        for name, content in files.items():
            path = state / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(0o440 if self._group else 0o400)
            os.chown(path, 0, self._group)
        data, scratch = self.directory / "..data", self.directory / "..data_tmp"
        before = data.resolve() if data.exists() else None
        scratch.symlink_to(state.name)
        scratch.replace(data)
        names = {Path(name).parts[0] for name in files}
        for path in self.directory.iterdir():
            if not path.name.startswith("..") and path.name not in names:
                path.unlink()
        for name in names:
            if not (link := self.directory / name).is_symlink():
                link.symlink_to(f"..data/{name}")
        if before:
            shutil.rmtree(before)


TLS_FILES = {"tls-cert": "tls.crt", "tls-key": "tls.key", "client-ca": "ca.crt"}


def certificates(directory: Path, authority: str) -> dict[str, bytes]:
    """Make a Secret of the type kubernetes.io/tls, and a client's certificate of the same authority."""
    own = issue(authority)
    own.write(directory / f"{authority}.pem")
    issue("server", own, ["keyprovider"]).write(directory / f"{authority}-server.pem")
    issue("client", own).write(directory / f"{authority}-client.pem")
    names = {"tls.crt": f"{authority}-server.pem", "tls.key": f"{authority}-server.key", "ca.crt": f"{authority}.pem"}
    return {name: (directory / file).read_bytes() for name, file in names.items()}
