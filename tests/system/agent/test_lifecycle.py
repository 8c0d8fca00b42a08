"""How the agent ends: idle time, SIGTERM, a socket that is gone, and an upgrade while it runs; its command line."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

import decoder
from decoder import limits
from tests.support.program.agent import MIB, Agent, Place, begin, kill, wait_until, works
from tests.support.program.processes import PROGRAM


def agent(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run([PROGRAM, "agent", *arguments], capture_output=True, timeout=60, check=False, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("arguments", [[], ["start"], ["status", "--wrong"], ["stop", "--json"]])
def test_what_it_refuses(arguments: list[str]) -> None:
    refused, output, errors = agent(*arguments)
    assert (refused, output) == (2, "")
    assert errors.startswith("ctd-decoder: error: ")


@pytest.mark.parametrize("arguments", [["--help"], ["status", "--help"]])
def test_help(arguments: list[str]) -> None:
    done, output, errors = agent(*arguments)
    assert (done, errors) == (0, "")
    assert output.startswith("usage: ctd-decoder agent")


def test_it_removes_its_own_socket_alone(place: Place) -> None:
    with Agent(place) as running:
        place.socket.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(place.socket))
            assert running.process.wait(120) == 0  # nobody finds it any more
            assert place.socket.exists()
    place.socket.unlink()
    with Agent(place):
        assert works(place)
    assert not place.socket.exists()


def test_it_ends_when_idle(place: Place) -> None:
    with Agent(place, idle=2) as running_agent:
        assert works(place)
        assert running_agent.process.wait(120) == 0
        assert not place.socket.exists()


def test_questions_about_its_status_do_not_keep_it(place: Place) -> None:
    with Agent(place, idle=2) as running_agent:
        assert works(place)
        wait_until(lambda: running_agent.status() is None)
        assert running_agent.process.wait(60) == 0


def test_it_is_not_idle_while_a_layer_comes_slowly(place: Place) -> None:
    with Agent(place, idle=2) as running_agent:
        running, rest = begin(place.client)
        time.sleep(4)
        assert running_agent.process.poll() is None
        assert running.finish(rest) == (0, 4 * MIB - 1, "")
        assert running_agent.process.wait(120) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_running_layers_come_to_their_end(number: signal.Signals, place: Place) -> None:
    with Agent(place) as running_agent:
        running, rest = begin(place.client)
        running_agent.process.send_signal(number)
        wait_until(lambda: len(running_agent.children) == 1)
        started = time.monotonic()
        assert not works(place)  # it is sent away at once, and not after the 60 seconds that a client waits
        assert time.monotonic() - started < 30
        assert running.finish(rest) == (0, 4 * MIB - 1, "")
        assert running_agent.process.wait(120) == 0


def test_a_worker_that_is_killed_is_replaced(place: Place) -> None:
    with Agent(place) as running_agent:
        wait_until(lambda: len(running_agent.children) == limits.AGENT_SPARE_WORKERS)
        kill(*running_agent.children)
        wait_until(lambda: works(place))
        assert running_agent.process.poll() is None


def test_no_more_layers_at_a_time_than_it_may(place: Place) -> None:
    with Agent(place, most=1):
        running, rest = begin(place.client)
        assert not works(place)
        assert running.finish(rest) == (0, 4 * MIB - 1, "")
        wait_until(lambda: works(place))


def copied_program(directory: Path) -> str:
    """Copy the program, so that it can be replaced, and return what an agent runs first to be that copy."""
    shutil.copytree(Path(str(decoder.__file__)).parent, directory / "decoder")
    return f"import sys; sys.path.insert(0, {str(directory)!r})\n"


def test_the_program_is_replaced_while_it_runs(place: Place) -> None:
    """It takes no more layers, brings those to their end that it has, and ends."""
    with Agent(place, before=copied_program(place.directory)) as running_agent:
        assert works(place)
        running, rest = begin(place.client)
        package = place.directory / "decoder"
        package.rename(place.directory / "old")
        shutil.copytree(place.directory / "old", package, copy_function=shutil.copyfile)
        assert not works(place)
        assert not works(place)
        assert running_agent.process.poll() is None
        assert running.finish(rest) == (0, 4 * MIB - 1, "")
        assert running_agent.process.wait(120) == 0


def test_the_program_is_removed_while_it_runs(place: Place) -> None:
    with Agent(place, before=copied_program(place.directory)) as running_agent:
        shutil.rmtree(place.directory / "decoder")
        assert not works(place)
        assert running_agent.process.wait(120) == 0
