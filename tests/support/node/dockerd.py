"""Debian's dockerd, with a socket and files of its own; it needs no network."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

_SECONDS = 120
_OPTIONS = ("--storage-driver=vfs", "--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false")


class Docker(NamedTuple):
    """A running daemon."""

    socket: Path

    @property
    def environment(self) -> dict[str, str]:
        """What names it for clients."""
        return {"DOCKER_HOST": f"unix://{self.socket}"}

    def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Send a request of the Engine API."""
        connection = http.client.HTTPConnection("docker", timeout=_SECONDS)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.settimeout(_SECONDS)
            connection.sock.connect(str(self.socket))
            connection.request(method, path, body, {"Content-Type": "application/x-tar"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def load(self, archive: bytes) -> str:
        """Load an archive as `docker load` does, and return what the daemon says."""
        status, said = self.ask("POST", "/images/load", archive)
        assert status == 200, said
        return said.decode()

    def inspect(self, image: str) -> dict[str, Any]:
        """Return what the daemon knows of an image."""
        status, said = self.ask("GET", f"/images/{image}/json")
        assert status == 200, said
        found: dict[str, Any] = json.loads(said)
        return found


@contextmanager
def running(directory: Path) -> Iterator[Docker]:
    """Run a daemon whose files are below a directory with a short path."""
    daemon = Docker(directory / "docker.sock")
    places = {"host": f"unix://{daemon.socket}", "data-root": "data", "exec-root": "exec", "pidfile": "pid"}
    options = [f"--{name}={value if ':' in value else directory / value}" for name, value in places.items()]
    log = directory / "log"
    with (
        log.open("wb") as file,
        subprocess.Popen(["dockerd", *options, *_OPTIONS], stdout=file, stderr=file) as process,
    ):
        try:
            _wait(daemon, process, log)
            yield daemon
        finally:
            process.terminate()


def _wait(daemon: Docker, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _SECONDS
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            if daemon.ask("GET", "/_ping")[0] == 200:
                return
        except OSError:
            time.sleep(0.1)
