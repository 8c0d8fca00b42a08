"""Debian's containerd on a root, a socket and an /etc/containerd of its own, with our program first on PATH."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
import tomllib
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import pytest

from tests.support.image import images
from tests.support.program.processes import PROGRAM, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.image.images import Layout

CTR_IMGCRYPT = ROOT / ".cache/imgcrypt/usr/bin/ctr-imgcrypt"
KEYS_DIRECTORY = "/etc/containerd/ocicrypt/keys"  # fixed by containerd's default configuration

_START_SECONDS = 120.0
_CTR_SECONDS = 300
_STOP_SECONDS = 60.0
SOCKET = "/run/private/containerd.sock"
IMAGE = f"image:{images.NAME}"
_CGROUP = f"ctd-decoder-test-{os.getpid()}"

# Only places: what the host has there stays as it is. The stream processors are containerd's default ones.
CONFIGURATION = f"""\
version = 2
root = "/run/private/root"
state = "/run/private/state"
[grpc]
address = "{SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
path = "/run/private/opt"
"""

# In mount and PID namespaces of its own: /run is empty, /etc is the host's with another /etc/containerd. All of
# it, shims and snapshots included, ends with the first process.
_INIT = f"""\
set -e
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/private/etc /run/private/work
mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/private/etc,workdir=/run/private/work /etc
mkdir -p /etc/containerd
mount -t tmpfs tmpfs /etc/containerd
mkdir -p {KEYS_DIRECTORY}
mount --bind "$1" {KEYS_DIRECTORY}
[ ! -d /opt ] || mount -t tmpfs tmpfs /opt
shift
exec "$@"
"""
# Without a configuration file, where the places are options, but for the directory of the `opt` plugin.
_WITHOUT_FILE = ["--root", "/run/private/root", "--state", "/run/private/state", "--address", SOCKET]

# What is found on PATH: it tells that our program ran, and how.
_LOGGING = f"""\
#!/bin/sh
echo "$*" >>"$CTD_DECODER_LOG"
exec {shlex.quote(str(PROGRAM))} "$@"
"""
# The same with its exit status lost, for controls.
FORGETTING = f"""\
#!/bin/sh
{shlex.quote(str(PROGRAM))} "$@" 2>/dev/null
exit 0
"""


class Containerd:
    """A containerd that runs while the context is open; each has a fresh root, and so no snapshot of another.

    Args:
        directory: an empty one, for its files.
        keys: files to put into the keys directory.
        ctd_decoder: what is found on PATH under this name.
        programs: the directory of another containerd's programs; None for the installed one.
        configuration: what its configuration file holds, None for no file; the default tells it places alone.
        path_before: what comes first on its PATH; its working directory is `directory`.
    """

    def __init__(
        self,
        directory: Path,
        *keys: Path,
        ctd_decoder: str = _LOGGING,
        programs: Path | None = None,
        configuration: str | None = CONFIGURATION,
        path_before: str = "",
    ) -> None:
        self._directory = directory
        self._configuration = directory / "config.toml"
        self._command: list[str | Path] = ["containerd", *_WITHOUT_FILE]
        if configuration is not None:
            self._configuration.write_text(configuration)
            self._command = ["containerd", "--config", self._configuration]
        self._keys = directory / "keys"
        self._keys.mkdir()
        for key in keys:
            shutil.copy(key, self._keys)
        self._log = directory / "containerd.log"
        self._decoder_log = directory / "ctd-decoder.log"
        own = directory / "bin"
        own.mkdir()
        (own / "ctd-decoder").write_text(ctd_decoder)
        (own / "ctd-decoder").chmod(0o755)
        path = ":".join([*map(str, filter(None, (path_before, own, programs))), os.environ["PATH"], "/usr/sbin:/sbin"])
        self._environment = {**os.environ, "PATH": path, "CTD_DECODER_LOG": str(self._decoder_log)}

    def __enter__(self) -> Containerd:
        dying_with_us = ["setpriv", "--pdeathsig", "KILL"]
        namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*dying_with_us, *namespaces, "sh", "-c", _INIT, "sh", self._keys, *self._command],
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
            )
        try:
            self._wait_until_it_serves()
            pid = self._process.pid
            (self._first_process,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except BaseException:
            self._process.kill()
            self._process.wait(_STOP_SECONDS)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.kill(int(self._first_process), signal.SIGKILL)
        self._process.wait(_STOP_SECONDS)  # unshare waits for it, and it for every process of its namespace
        hierarchies = Path("/sys/fs/cgroup")
        for cgroup in [*hierarchies.glob(_CGROUP), *hierarchies.glob(f"*/{_CGROUP}")]:
            cgroup.rmdir()  # only a container that was killed leaves one

    @property
    def configuration(self) -> dict[str, Any]:
        """What `containerd config dump` shows of the configuration in force."""
        return tomllib.loads(self.execute("containerd", "--config", str(self._configuration), "config", "dump").stdout)

    @property
    def decoder_runs(self) -> list[str]:
        """The arguments of each start of our program."""
        return self._decoder_log.read_text().splitlines()

    @property
    def blobs(self) -> set[str]:
        """The digests of all that is in the content store."""
        return set(self.ctr("content", "list", "--quiet").stdout.split())

    @property
    def store(self) -> Path:
        """Where containerd keeps blobs by their SHA-256, as seen from outside of its namespaces."""
        root = "run/private/root/io.containerd.content.v1.content/blobs/sha256"
        return Path(f"/proc/{self._first_process}/root/{root}")

    @property
    def socket(self) -> Path:
        """The socket of containerd's services, as it can be reached from the host."""
        return Path(f"/proc/{self._first_process}/root{SOCKET}")

    def import_image(
        self, layout: Layout, *options: str, repository: str = "image", namespace: str = "default"
    ) -> subprocess.CompletedProcess[str]:
        """Import an image with ctr, which knows nothing of encryption."""
        archive = self._directory / f"{namespace}-{repository}.tar"
        archive.write_bytes(layout.archive())
        return self.ctr("--namespace", namespace, "images", "import", *options, "--base-name", repository, str(archive))

    def run_stock(self, image: str = IMAGE, namespace: str = "default") -> subprocess.CompletedProcess[str]:
        """Run a container with ctr, which has the image unpacked first unless it is."""
        command = ["ctr", "--address", SOCKET, "--namespace", namespace, "run"]
        return self._run_whole(*command, "--rm", "--cgroup", f"/{_CGROUP}", image, "container")

    def run(self, layout: Layout, *options: str) -> subprocess.CompletedProcess[str]:
        """Import an image, and have imgcrypt's ctr unpack it, with a payload for each layer, and run a container."""
        imported = self.import_image(layout, "--no-unpack")
        assert imported.returncode == 0, imported.stderr
        command = [str(CTR_IMGCRYPT), "--address", SOCKET, "run", "--rm", "--cgroup", f"/{_CGROUP}"]
        return self._run_whole(*command, *options, IMAGE, "container")

    def _run_whole(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a container; again if ctr, which stops reading when the container ends, lost the end of its output."""
        for _ in range(5):
            result = self.execute(*command)
            if result.returncode or result.stdout.endswith(images.LAST_WORD):
                break
        return result

    def ctr(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Debian's ctr."""
        return self.execute("ctr", "--address", SOCKET, *arguments)

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in containerd's namespaces, for _CTR_SECONDS at most."""
        enter = ["nsenter", "--target", self._first_process, "--mount", "--pid"]
        limit = ["timeout", "--signal=KILL", str(_CTR_SECONDS)]
        return subprocess.run(
            [*enter, *limit, *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self._environment,
            timeout=_CTR_SECONDS + 5,
            check=False,
        )

    def start(self, *command: str, output: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start a command in containerd's namespaces, which ends with them at the latest."""
        enter = ["nsenter", "--target", self._first_process, "--mount", "--pid"]
        return subprocess.Popen(
            [*enter, *command], stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self._environment
        )

    def _wait_until_it_serves(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while "containerd successfully booted" not in self._log.read_text():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.02)


@contextmanager
def ctr_finds_it(namespace: str) -> Iterator[None]:
    """Let ctr find our containerd and the namespace by itself; what its containers leave of cgroups is removed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTAINERD_ADDRESS", SOCKET)
        patch.setenv("CONTAINERD_NAMESPACE", namespace)
        yield
    hierarchies = Path("/sys/fs/cgroup")
    for cgroup in [*hierarchies.glob(namespace), *hierarchies.glob(f"*/{namespace}")]:
        cgroup.rmdir()
