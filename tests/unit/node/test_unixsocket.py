"""Listening on a Unix socket: a live socket of any type stays, a stale one goes."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from decoder import limits
from decoder.errors import UsageError
from decoder.node import unixsocket

_TYPES = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET)


@pytest.fixture(name="path")
def _path() -> Iterator[str]:
    with TemporaryDirectory() as directory:  # pytest's own are too long for a socket
        yield f"{directory}/socket"


def _listen(path: str) -> None:
    with unixsocket.listening(path, 1):
        pass


@pytest.mark.parametrize("kind", _TYPES)
def test_a_live_socket_of_any_type_stays(path: str, kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(path)
        with pytest.raises(unixsocket.ListenError, match="another program uses"):
            _listen(path)
        if kind != socket.SOCK_DGRAM:
            other.listen()
            with pytest.raises(unixsocket.ListenError, match="another program uses"):
                _listen(path)
    assert os.path.lexists(path)


def test_a_datagram_socket_that_talks_to_another_stays(path: str) -> None:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer,
    ):
        peer.bind(f"{path}.peer")
        other.bind(path)
        other.connect(f"{path}.peer")
        with pytest.raises(unixsocket.ListenError, match="another program uses"):
            _listen(path)


def test_a_full_backlog_is_not_waited_for(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as client:
        other.bind(path)
        other.listen(0)
        client.connect(path)
        with pytest.raises(unixsocket.ListenError, match="another program uses"):
            _listen(path)


@pytest.mark.parametrize("kind", _TYPES)
def test_a_stale_socket_of_any_type_is_replaced_and_removed(path: str, kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(path)
    with unixsocket.listening(path, 1), socket.socket(socket.AF_UNIX) as client:
        assert os.lstat(path).st_mode & 0o777 == 0o600
        client.connect(path)
    assert not os.path.lexists(path)


def test_what_is_not_a_socket_stays(path: str) -> None:
    Path(path).write_text("a file")
    with pytest.raises(unixsocket.ListenError, match="is not a socket"):
        _listen(path)
    assert Path(path).read_text() == "a file"


def test_a_socket_that_took_its_place_stays(path: str) -> None:
    with unixsocket.listening(path, 1), socket.socket(socket.AF_UNIX) as other:
        os.unlink(path)
        other.bind(path)
    assert os.path.lexists(path)


def test_of_servers_that_start_at_once_one_listens(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    outcomes: list[str] = []
    all_tried = threading.Barrier(4)

    def listen() -> None:
        try:
            with unixsocket.listening(path, 1):
                outcomes.append("listens")
                all_tried.wait(limits.SOCKET_LOCK_SECONDS)
        except unixsocket.ListenError:
            outcomes.append("refused")
            all_tried.wait(limits.SOCKET_LOCK_SECONDS)

    threads = [threading.Thread(target=listen) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["listens", "refused", "refused", "refused"]


def test_a_locked_directory_is_not_waited_for_long(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SOCKET_LOCK_SECONDS", 0.1)
    directory = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        with pytest.raises(unixsocket.ListenError, match="locked"):
            _listen(path)
    finally:
        os.close(directory)


def test_a_directory_is_needed(path: str) -> None:
    with pytest.raises(unixsocket.ListenError, match="No such file"):
        _listen(f"{path}/below/socket")


def test_names_that_no_file_can_have(path: str) -> None:
    for wrong, reason in ((f"{os.path.dirname(path)}/{'x' * 256}", "File name too long"), ("/proc/socket", "")):
        with pytest.raises(unixsocket.ListenError) as caught:
            _listen(wrong)
        assert str(caught.value).startswith(f"cannot listen on '{wrong[:50]}")
        assert reason in str(caught.value)


def test_a_path_must_be_absolute_and_short(path: str) -> None:
    unixsocket.check_path(path, "--listen")
    for wrong in ("relative", "/" + "x" * limits.UNIX_PATH_BYTES):
        with pytest.raises(UsageError, match="--listen needs an absolute path"):
            unixsocket.check_path(wrong, "--listen")
