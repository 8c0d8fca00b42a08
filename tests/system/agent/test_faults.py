"""The agent fails before, during and after a layer: a layer is decrypted all the same, or the client fails."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from decoder import limits
from tests.support.keywrap.layers import encrypted
from tests.support.program.agent import (
    MIB,
    OTHER_USER,
    SECONDS,
    Agent,
    Place,
    Running,
    begin,
    is_running,
    kill,
    kill_agent,
    state_of,
    wait_until,
    worker_of,
    works,
)
from tests.support.program.onelayer import PLAINTEXT, run_layer

ENDED_EARLY = "ctd-decoder: error: the agent ended before the layer did\n"
# However busy the machine is, standard output is held open until the status was collected.
HOLDING = "from decoder import limits\nlimits.HOLD_SECONDS = 600\n"


def test_no_agent_and_one_that_is_gone(place: Place) -> None:
    assert not works(place)
    with Agent(place) as agent:
        assert works(place)
        kill_agent(agent.process.pid)
        assert place.socket.exists()
        assert not works(place)
    place.socket.unlink()


def test_no_worker_outlives_the_agent(place: Place) -> None:
    with Agent(place) as agent:
        wait_until(lambda: bool(agent.children))
        workers = agent.children
        kill(agent.process.pid)
        agent.process.wait()
        wait_until(lambda: not any(map(is_running, workers)))
    place.socket.unlink()


def test_an_agent_that_hangs() -> None:
    """Its socket is removed, so only one layer waits for it; the agent notices and ends."""
    with Place(ready_milliseconds=1000) as place, Agent(place) as agent:
        kill(agent.process.pid, number=signal.SIGSTOP)
        wait_until(lambda: state_of(agent.process.pid) == "T")  # it forks no more
        workers = agent.children
        kill(*workers, number=signal.SIGSTOP)
        assert not works(place)
        assert not place.socket.exists()
        kill(agent.process.pid, *workers, number=signal.SIGCONT)
        assert agent.process.wait(120) == 0


def test_the_worker_is_killed_during_a_layer(place: Place) -> None:
    """The truncated layer is an error, and standard output ends only after the exit status was collected."""
    with Agent(place) as agent:
        running, _ = begin(place.client)
        kill(worker_of(agent, running.process.pid))
        ended: list[float] = []

        def read_to_the_end() -> None:
            while running.stdout.read(65536):
                pass
            ended.append(time.monotonic())

        reader = threading.Thread(target=read_to_the_end)
        reader.start()
        assert running.process.stderr is not None
        assert running.process.stderr.read().decode() == ENDED_EARLY
        time.sleep(0.3)
        assert not ended
        assert running.process.wait(120) == 70
        collected = time.monotonic()
        reader.join(120)
        assert collected < ended[0]
        running.process.communicate()
        assert works(place)


def test_the_zygote_is_killed_during_a_layer(place: Place) -> None:
    with Agent(place) as agent:
        running, rest = begin(place.client)
        kill(agent.process.pid)
        agent.process.wait()
        assert running.finish(rest) == (0, 4 * MIB - 1, "")
    place.socket.unlink()


def test_the_client_is_killed(place: Place) -> None:
    """The worker ends, too, but keeps standard output open until the client's end could be seen."""
    with Agent(place, before=HOLDING) as agent:
        for _ in range(5):
            running, _ = begin(place.client)
            worker = worker_of(agent, running.process.pid)
            running.process.kill()
            assert is_running(worker)
            os.set_blocking(running.stdout.fileno(), False)
            wait_until(lambda running=running: running.stdout.read(MIB) is None)  # type: ignore[misc]
            assert running.process.wait(120) == -signal.SIGKILL
            wait_until(lambda worker=worker: not is_running(worker))  # type: ignore[misc]
            running.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_client_is_asked_to_end(number: signal.Signals, place: Place) -> None:
    """It fails as every failure does: standard output ends after the exit status was collected."""
    with Agent(place) as agent:
        running, _ = begin(place.client)
        worker = worker_of(agent, running.process.pid)
        running.process.send_signal(number)
        assert running.process.stderr is not None
        assert running.process.stderr.read() == b""  # it has ended
        os.set_blocking(running.stdout.fileno(), False)
        wait_until(lambda: running.stdout.read(MIB) is None)
        assert running.process.wait(120) == 128 + number
        wait_until(lambda: not is_running(worker))
        running.process.communicate()


def test_a_late_signal_for_the_request_ends_nothing(place: Place) -> None:
    """The kernel may deliver it while the layer is being worked on."""
    with Agent(place) as agent:
        running, rest = begin(place.client)
        os.kill(worker_of(agent, running.process.pid), signal.SIGIO)
        time.sleep(0.1)
        assert running.finish(rest) == (0, 4 * MIB - 1, "")


def test_a_damaged_layer_is_held_until_its_status_was_collected(place: Place) -> None:
    layer = encrypted(bytes(20_000))
    with Agent(place, before=HOLDING):
        running = Running(place.client, layer)
        running.stdin.write(layer.ciphertext[:-1])
        running.stdin.close()
        assert running.process.stderr is not None
        assert running.process.stderr.read().startswith(b"ctd-decoder: error: ")
        os.set_blocking(running.stdout.fileno(), False)
        time.sleep(0.3)
        assert len(running.stdout.read() or b"") == 20_000 - 1 - limits.TAIL_BYTES
        assert running.stdout.read() is None  # open, with nothing in it
        assert running.process.wait(120) == 5
        wait_until(lambda: running.stdout.read() == b"")
        running.stdout.close()
        running.process.stderr.close()


def frame(*items: int) -> bytes:
    body = bytes([0x90 + len(items), *items])
    return struct.pack(">I", len(body)) + body


READY, STARTED, ENDED = frame(2, 0, 0), frame(2, 1, 0), frame(2, 2, 0)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", None),
        (frame(1, 0, 0), None),
        (STARTED, None),
        (ENDED, None),
        (frame(2, 0), None),
        (b"\xff\xff\xff\xff", None),
        (b"\0\0\0\4\x92", None),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", None),
        (READY, b""),
        (READY, READY),
        (READY, ENDED),
        (READY, b"\0\0\0\4\x93\2"),
        (READY, frame(1, 1, 0)),
    ],
)
def test_an_agent_that_does_not_begin(before: bytes, after: bytes | None, place: Place) -> None:
    with Pretender(place, before, after):
        assert not works(place)


@pytest.mark.parametrize(
    "after", [STARTED, STARTED + STARTED, STARTED + ENDED[:6], STARTED + b"\0\0\0\5\x93\2\2\xcd\0"]
)
def test_an_agent_that_begins_and_does_not_end(after: bytes, place: Place) -> None:
    with Pretender(place, READY, after):
        result = run_layer(encrypted(PLAINTEXT), program=place.client)
    assert result == (70, b"", ENDED_EARLY)
    assert place.fallbacks == 0


@pytest.mark.parametrize(("status", "message"), [(0, ENDED), (5, frame(2, 2, 5)), (130, frame(2, 2, 0xCC, 130))])
def test_the_exit_status_is_the_workers(status: int, message: bytes, place: Place) -> None:
    if status == 130:
        message = b"\0\0\0\5\x93" + message[5:]
    with Pretender(place, READY, STARTED + message):
        assert run_layer(encrypted(PLAINTEXT), program=place.client) == (status, b"", "")


def test_an_agent_that_says_nothing() -> None:
    with Place(ready_milliseconds=1000) as place, Pretender(place, None, None):
        assert not works(place)
        assert not place.socket.exists()


def test_the_next_agents_socket_stays_when_one_says_nothing() -> None:
    """Several clients may wait for an agent that hangs: only the first of them removes its socket."""
    with Place(ready_milliseconds=1000) as place, socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(place.socket))
        silent.listen()
        silent.settimeout(SECONDS)
        with ThreadPoolExecutor(1) as pool, socket.socket(socket.AF_UNIX) as following:
            running = pool.submit(works, place)
            connection, _ = silent.accept()
            place.socket.unlink(missing_ok=True)
            following.bind(str(place.socket))
            assert not running.result()
            connection.close()
        assert place.socket.exists()


def test_a_full_queue(place: Place) -> None:
    """The client waits for room in it, which comes when somebody is served or sent away."""
    with Pretender(place, None, None) as pretender, socket.socket(socket.AF_UNIX) as waiting:
        pretender.listener.listen(0)
        waiting.connect(str(place.socket))
        closing = threading.Timer(0.5, lambda: pretender.listener.shutdown(socket.SHUT_RDWR))
        closing.start()
        assert not works(place)
        closing.join()


def test_a_signal_is_not_lost_while_a_full_queue_is_waited_for(place: Place) -> None:
    with Pretender(place, None, None) as pretender, socket.socket(socket.AF_UNIX) as waiting:
        pretender.listener.listen(0)
        waiting.connect(str(place.socket))
        with subprocess.Popen([place.client], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as client:
            wait_until(lambda: any(target.startswith("socket:") for target in targets_of(client.pid)))
            client.terminate()
            assert client.wait(SECONDS) == 128 + signal.SIGTERM
    assert place.fallbacks == 0


def targets_of(pid: int) -> list[str]:
    """Read what the descriptors of a process refer to."""
    found = []
    for entry in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/{pid}/fd/{entry}"))
    return found


def test_an_agent_of_another_user(place: Place) -> None:
    def as_other() -> None:
        os.seteuid(OTHER_USER)

    place.directory.chmod(0o777)
    place.socket.parent.chmod(0o777)
    with Pretender(place, READY, STARTED + ENDED, prepare=as_other):
        place.socket.parent.chmod(0o700)
        os.seteuid(0)
        assert not works(place)


class Pretender:
    """Something else than the agent on its socket. It says `before` at once and `after` to a request, and hangs up.

    Where either is None it says nothing more and does not hang up.
    """

    def __init__(
        self, place: Place, before: bytes | None, after: bytes | None, prepare: Callable[[], Any] = lambda: None
    ) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        try:
            prepare()
            self.listener.bind(str(place.socket))
            self.listener.listen()
        finally:
            os.seteuid(0)
        self._before, self._after = before, after
        self._thread = threading.Thread(target=self._pretend, daemon=True)

    def __enter__(self) -> Pretender:
        if self._before is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)  # it wakes the thread
        self.listener.close()
        if self._before is not None:
            self._thread.join(120)

    def _pretend(self) -> None:
        with suppress(OSError):
            while True:
                self._answer(self.listener.accept()[0])

    def _answer(self, connection: socket.socket) -> None:
        with connection, suppress(ConnectionError):
            connection.sendall(self._before or b"")
            if self._after is not None:
                data, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 16)
                assert data
                for descriptor in descriptors:
                    os.close(descriptor)
                connection.sendall(self._after)
