"""A worker that gets something other than a request hangs up, and the agent goes on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import suppress

import msgpack  # type: ignore[import-untyped]
import pytest

from decoder import limits
from tests.support.program.agent import OTHER_USER, Agent, Place, works

READY = b"\0\0\0\4\x93\2\0\0"
STARTED = b"\0\0\0\4\x93\2\1\0"


def connect(place: Place) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    connection.connect(str(place.socket))
    assert connection.recv(len(READY), socket.MSG_WAITALL) == READY
    return connection


def is_ended(connection: socket.socket) -> bool:
    """Tell whether the worker has hung up; whether it had read all of what was sent does not matter."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4) + body


def request(*items: object) -> bytes:
    return framed(msgpack.packb(items))


NESTED = framed(b"\x91" * 100_000)
GOOD = [2, [b"--version"], [b"A=b"], 0]


@pytest.mark.parametrize(
    ("data", "descriptors"),
    [
        (b"\0\0\0\0", 0),
        ((limits.AGENT_REQUEST_BYTES + 1).to_bytes(4), 0),
        (b"\xff\xff\xff\xff", 0),
        (framed(b"\xc1"), 0),
        (framed(b"\xdd\xff\xff\xff\xff"), 0),
        (NESTED, 0),
        (framed(b"\x01"), 0),
        (framed(b"\x93\1\0"), 0),
        (request(1, *GOOD[1:]), 1),
        (request(*GOOD[:3]), 1),
        (request(*GOOD, 0), 1),
        (request(2, b"--version", [], 0), 1),
        (request(2, ["--version"], [], 0), 1),
        (request(2, [b"--version"], {b"A": b"b"}, 0), 1),
        (request(2, [b"--version"], [], -1), 1),
        (request(2, [b"--version"], [], 16), 1),
        (request(2, [b"--version"], [], True), 1),
        (request(*GOOD), 0),
        (request(*GOOD), 2),
        (request(*GOOD), 6),
        (request(2, [b"--version"], [], 15), 4),
    ],
)
def test_malformed_requests(data: bytes, descriptors: int, served: Place) -> None:
    directory = os.open("/", os.O_PATH)
    try:
        with connect(served) as connection:
            socket.send_fds(connection, [data], [directory] * descriptors)
            assert is_ended(connection)
    finally:
        os.close(directory)
    assert works(served)


def test_a_client_that_is_held_up_for_a_while(served: Place) -> None:
    """As on a busy machine, between READY and its request."""
    directory = os.open("/", os.O_PATH)
    try:
        with connect(served) as connection:
            time.sleep(2)
            socket.send_fds(connection, [request(*GOOD)], [directory])
            assert connection.recv(len(STARTED), socket.MSG_WAITALL) == STARTED
    finally:
        os.close(directory)


def test_a_client_that_is_silent(served: Place) -> None:
    started = time.monotonic()
    with connect(served) as connection:
        connection.settimeout(60)
        connection.sendall(b"\0\0\1\0half")
        assert connection.recv(1) == b""
    assert limits.AGENT_REQUEST_SECONDS - 0.1 < time.monotonic() - started < 60


def test_a_client_that_sends_a_byte_at_a_time(served: Place) -> None:
    started = time.monotonic()
    with connect(served) as connection:
        connection.sendall(b"\0\0\1\0")
        connection.settimeout(0.05)
        while not is_ended(connection):
            assert time.monotonic() - started < 60
            with suppress(BrokenPipeError):
                connection.send(b"x")


def test_silent_clients_do_not_keep_others_out(place: Place) -> None:
    with Agent(place):
        silent = [connect(place) for _ in range(3 * limits.AGENT_SPARE_WORKERS)]
        assert sum(works(place) for _ in range(5))
        for connection in silent:
            connection.close()


def test_a_client_of_another_user(place: Place) -> None:
    with Agent(place):
        assert place.socket.stat().st_mode & 0o777 == 0o600
        place.directory.chmod(0o755)
        place.socket.parent.chmod(0o755)
        place.socket.chmod(0o666)
        program = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.recv(1))"
        python = os.path.realpath(sys.executable)
        done = subprocess.run(
            [python, "-IS", "-c", program, place.socket],
            user=OTHER_USER,
            capture_output=True,
            timeout=120,
            check=False,
            cwd="/",
        )
        assert (done.returncode, done.stdout) == (0, b"b''\n"), done.stderr
        assert not works(place)  # the client does not use a directory that others can look into
        place.socket.parent.chmod(0o700)
        assert works(place)
