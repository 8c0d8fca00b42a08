"""The containerd of k3s and RKE2, as these set it up, beside another containerd in its namespaces.

Their own programs are not in Debian: Debian's containerd is run with their places, configuration, environment and PATH
(k3s: pkg/agent/containerd, pkg/agent/templates).
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.node.containerd import Containerd

_SECONDS = 300.0
_SOCKET = "/run/k3s/containerd/containerd.sock"  # RKE2 has it there too

# As they write it: with the format of the version that they bring.
_CONFIGURATIONS = {
    2: """\
version = 2

[plugins."io.containerd.internal.v1.opt"]
  path = "{directory}/agent/containerd"
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_address = "127.0.0.1"
  stream_server_port = "10010"
  enable_selinux = false
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  sandbox_image = "rancher/mirrored-pause:3.6"

[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "overlayfs"
  disable_snapshot_annotations = true
""",
    3: """\
version = 3
root = "{directory}/agent/containerd"
state = "/run/k3s/containerd"

[grpc]
  address = "/run/k3s/containerd/containerd.sock"

[plugins.'io.containerd.internal.v1.opt']
  path = "{directory}/agent/containerd"

[plugins.'io.containerd.grpc.v1.cri']
  stream_server_address = "127.0.0.1"
  stream_server_port = "10010"

[plugins.'io.containerd.cri.v1.runtime']
  enable_selinux = false
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true

[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  disable_snapshot_annotations = true
""",
}
_OPTIONS = {
    2: "-c {directory}/agent/etc/containerd/config.toml -a {socket} --state /run/k3s/containerd"
    " --root {directory}/agent/containerd",
    3: "-c {directory}/agent/etc/containerd/config.toml",
}

# Their directory is made in an overlay, so that the machine's own /var/lib stays; containerd's snapshots need a file
# system of their own.
_START = """\
set -e
mkdir -p /run/rancher/upper /run/rancher/work "$2"
mount -t overlay overlay -o lowerdir=/var/lib,upperdir=/run/rancher/upper,workdir=/run/rancher/work /var/lib
mkdir -p /var/lib/rancher
mount -t tmpfs tmpfs /var/lib/rancher
mkdir -p "$1/data/current/bin" "$1/agent/etc/containerd" "$1/agent/containerd"
[ -z "$3" ] || mount --bind "$3" "$1/data/current/bin"
cp /run/configuration.toml "$1/agent/etc/containerd/config.toml"
"""


class Rancher:
    """A containerd of k3s or RKE2 that runs.

    Args:
        beside: the containerd in whose namespaces it is.
        log: what it prints.
    """

    def __init__(self, beside: Containerd, log: Path) -> None:
        self._beside, self._log = beside, log

    def ctr(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Debian's ctr with it."""
        return self._beside.execute("ctr", "--address", _SOCKET, *arguments)

    def is_ready(self) -> bool:
        """Tell whether it serves."""
        return "containerd successfully booted" in self._log.read_text()


@contextmanager
def running(
    distribution: str, beside: Containerd, log: Path, programs: Path | None, path: str, version: int
) -> Iterator[Rancher]:
    """Run it while the context is open.

    Args:
        distribution: `k3s` or `rke2`, the name of its directory.
        beside: the containerd in whose namespaces it runs.
        log: the file for what it prints.
        programs: the directory of its containerd; None for the installed one.
        path: the rest of its PATH, where the decoder is.
        version: of its configuration: 2 with containerd 1, 3 with containerd 2.
    """
    directory = f"/var/lib/rancher/{distribution}"
    configuration = _CONFIGURATIONS[version].format(directory=directory)
    made = beside.execute("sh", "-c", f"cat >/run/configuration.toml <<'END'\n{configuration}END\n")
    assert made.returncode == 0, made.stderr
    made = beside.execute("sh", "-c", _START, "sh", directory, "/run/k3s", str(programs or ""))
    assert made.returncode == 0, made.stderr
    options = _OPTIONS[version].format(directory=directory, socket=_SOCKET)
    environment = f"env --ignore-environment PATH={directory}/data/current/bin:{path}"
    start = f"{environment} setpriv --pdeathsig KILL containerd {options} & wait"  # what k3s starts dies with it
    with log.open("wb") as file:
        process = beside.start("sh", "-c", start, output=file)
    try:
        rancher, end = Rancher(beside, log), time.monotonic() + _SECONDS
        while not rancher.is_ready():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.02)
        yield rancher
    finally:
        process.kill()
        process.wait()
