"""A docker daemon that fails: the message says what happened, and blames it for nothing else."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

from decoder.errors import ImageError
from decoder.image.programs import dockerdaemon
from decoder.image.transport import Options

if TYPE_CHECKING:
    from pathlib import Path


def read(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    with dockerdaemon.open_source("docker-daemon", "app:1", Options()):
        pass


def test_no_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "docker.sock"
    with pytest.raises(ImageError, match=f"^docker's daemon at '{path}' cannot be reached: No such file or directory$"):
        read(monkeypatch, path)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "ended the connection"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\nonly a part", "cut short"),
        (b"SSH-2.0\r\n", "does not speak HTTP as expected"),
        (b'HTTP/1.1 404 Not Found\r\n\r\n{"message": "no such one"}', "no such one"),
    ],
)
def test_a_daemon_that_fails(answer: bytes, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        serving = threading.Thread(target=serve)
        serving.start()
        with pytest.raises(ImageError, match=why):
            read(monkeypatch, path)
        serving.join()
