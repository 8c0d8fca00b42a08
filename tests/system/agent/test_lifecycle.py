"""How the agent starts and ends: sockets, systemd, idle time, SIGTERM, and an upgrade while it runs."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

import decoder
from decoder import limits
from tests.support.agent import MIB, Agent, Place, begin, kill, wait_until, works
from tests.support.processes import PROGRAM


def fails(*arguments: str) -> tuple[int, str]:
    done = subprocess.run([PROGRAM, "agent", *arguments], capture_output=True, timeout=30, check=False, text=True)
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        ([], 2, "systemd passes no socket; without it, --listen PATH is needed"),
        (["--listen", "relative"], 2, "--listen needs an absolute path"),
        (["--listen", "/" + "x" * 107], 2, "--listen needs an absolute path of at most 107 bytes"),
        (["--listen", "/absent/socket"], 7, "cannot listen on '/absent/socket': No such file or directory"),
        (["--listen", "/tmp/socket"], 7, "other users can write to its directory"),
        (["--idle", "-1"], 2, "--idle is a number of seconds"),
        (["--idle", "nan"], 2, "--idle is a number of seconds"),
        (["--workers", "0"], 2, "--workers is at least 1"),
        (["--keep-opened", "1e9"], 2, "--keep-opened is a number of seconds up to 3600"),
        (["--wrong"], 2, "unknown option '--wrong'; see ctd-decoder agent --help"),
    ],
)
def test_what_it_refuses(arguments: list[str], status: int, text: str) -> None:
    refused, errors = fails(*arguments)
    assert refused == status
    assert errors.startswith("ctd-decoder: error: ")
    assert text in errors


def test_help() -> None:
    done = subprocess.run([PROGRAM, "agent", "--help"], capture_output=True, timeout=30, check=False, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--keep-opened" in done.stdout


def test_the_socket(place: Place) -> None:
    with Agent(place):
        assert place.socket.stat().st_mode & 0o777 == 0o600
        assert fails("--listen", str(place.socket)) == (
            7,
            f"ctd-decoder: error: cannot listen on {str(place.socket)!r}: another program uses this socket\n",
        )
        assert works(place)
    assert not place.socket.exists()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(place.socket))
    with Agent(place):
        assert works(place)
    place.socket.write_text("a file")
    status, errors = fails("--listen", str(place.socket))
    assert (status, place.socket.read_text()) == (7, "a file")
    assert "it exists and is not a socket" in errors


def test_it_ends_when_idle(place: Place) -> None:
    with Agent(place, "--idle", "1") as agent:
        assert works(place)
        assert agent.process.wait(20) == 0
        assert not place.socket.exists()


def test_it_is_not_idle_while_a_layer_comes_slowly(place: Place) -> None:
    with Agent(place, "--idle", "0.5") as agent:
        running, rest = begin(place.client)
        time.sleep(1.5)
        assert agent.process.poll() is None
        assert running.finish(rest) == (0, 4 * MIB - 1, "")
        assert agent.process.wait(20) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_running_layers_come_to_their_end(number: signal.Signals, place: Place) -> None:
    with Agent(place) as agent:
        running, rest = begin(place.client)
        agent.process.send_signal(number)
        wait_until(lambda: len(agent.children) == 1)
        started = time.monotonic()
        assert not works(place)  # it is sent away at once
        assert time.monotonic() - started < 5
        assert running.finish(rest) == (0, 4 * MIB - 1, "")
        assert agent.process.wait(20) == 0


def test_a_worker_that_is_killed_is_replaced(place: Place) -> None:
    with Agent(place) as agent:
        wait_until(lambda: len(agent.children) == limits.AGENT_SPARE_WORKERS)
        kill(*agent.children)
        wait_until(lambda: works(place))
        agent.expected = limits.AGENT_SPARE_WORKERS * "ctd-decoder: a worker ended before it had anything to do\n"
        assert agent.process.poll() is None


def test_no_more_layers_at_a_time_than_it_may(place: Place) -> None:
    with Agent(place, "--workers", "1"):
        running, rest = begin(place.client)
        assert not works(place)
        assert running.finish(rest) == (0, 4 * MIB - 1, "")
        wait_until(lambda: works(place))


def copied_program(directory: Path) -> tuple[str, ...]:
    """Copy the program, so that it can be replaced."""
    shutil.copytree(Path(str(decoder.__file__)).parent, directory / "decoder")
    paths = [str(directory), sysconfig.get_path("purelib")]
    return (
        sys.executable,
        "-IS",
        "-c",
        f"import sys; sys.path[:0] = {paths!r}; from decoder.__main__ import main; main()",
    )


def test_the_program_is_replaced_while_it_runs(place: Place) -> None:
    """It takes no more layers, brings those to their end that it has, and ends."""
    with Agent(place, command=copied_program(place.directory)) as agent:
        assert works(place)
        running, rest = begin(place.client)
        package = place.directory / "decoder"
        package.rename(place.directory / "old")
        shutil.copytree(place.directory / "old", package, copy_function=shutil.copyfile)
        assert not works(place)
        assert not works(place)
        assert agent.process.poll() is None
        assert running.finish(rest) == (0, 4 * MIB - 1, "")
        assert agent.process.wait(20) == 0


def test_the_program_is_removed_while_it_runs(place: Place) -> None:
    with Agent(place, command=copied_program(place.directory)) as agent:
        shutil.rmtree(place.directory / "decoder")
        assert not works(place)
        assert agent.process.wait(20) == 0


def test_systemd_starts_it_with_the_first_layer(place: Place) -> None:
    command = ["systemd-socket-activate", "--listen", str(place.socket), PROGRAM, "agent", "--idle", "1"]
    log = place.directory / "activation"
    with log.open("wb") as errors:
        activation = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=errors)
    try:
        wait_until(place.socket.exists)
        wait_until(lambda: works(place))
        assert activation.wait(20) == 0  # it has become the agent, which ends when idle
        assert place.socket.exists()  # it is systemd's
    finally:
        kill(activation.pid)
        activation.wait()


def test_what_systemd_passes_must_be_a_listening_socket(place: Place) -> None:
    script = 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" agent 3<"$1"'
    done = subprocess.run(
        ["/bin/bash", "-c", script, PROGRAM, os.devnull], capture_output=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (2, b"ctd-decoder: error: what systemd passes is no socket\n")
    command = ["systemd-socket-activate", "--datagram", "--listen", str(place.socket), PROGRAM, "agent"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as activation:
        wait_until(place.socket.exists)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.connect(str(place.socket))
            client.send(b"x")
        _, errors = activation.communicate(timeout=30)
    assert activation.returncode == 2
    assert "what systemd passes is not a listening Unix stream socket" in errors
