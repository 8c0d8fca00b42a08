"""The agent comes by itself: with the first layer, once, without anything of the client that started it."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from decoder.agent.status import Status, ask
from tests.support.keywrap.layers import encrypted
from tests.support.program.agent import (
    OTHER_USER,
    Place,
    Running,
    children_of,
    is_running,
    kill,
    kill_agent,
    wait_until,
    works,
)
from tests.support.program.onelayer import PLAINTEXT, run_layer
from tests.support.program.processes import PROGRAM
from tests.support.provider.client_parts import NAME, configuration, decrypt, script, serving, turn

if TYPE_CHECKING:
    import grpc

CLIENTS = 64
SECRET = "a-credential-of-the-first-client"
OFF = {"CTD_DECODER_AGENT": "off"}


@pytest.fixture
def place() -> Iterator[Place]:
    """A place whose client starts agents; none of them is left afterwards."""
    with Place(starts=True) as place:
        yield place
        running = statuses(place)
        kill(*(status.pid for status in running), *(child for status in running for child in children_of(status.pid)))


def statuses(place: Place) -> list[Status]:
    return [status for path in place.socket.parent.glob("*.sock") if (status := ask(path))]


def only(place: Place) -> Status:
    """Return the status of the one agent that there is, once it answers."""
    found: list[Status] = []

    def is_there() -> bool:
        found[:] = statuses(place)
        return bool(found)

    wait_until(is_there)
    (status,) = found
    return status


def decrypts(place: Place, client: str = "", **environment: str) -> None:
    result = run_layer(encrypted(PLAINTEXT), program=client or place.client, environment=environment)
    assert result == (0, PLAINTEXT, "")


@pytest.mark.parametrize(("is_there", "reason"), [(True, "Permission denied"), (False, "No such file or directory")])
def test_a_program_that_cannot_be_started_says_why(is_there: bool, reason: str) -> None:
    with Place() as place:
        program = place.directory / "fallback"
        if is_there:
            program.chmod(0)
        else:
            program.unlink()
        status, _, errors = run_layer(encrypted(PLAINTEXT), program=place.client)
    expected = f"the program beside the agent's client cannot be started: {program}: {reason}"
    assert (status, expected in errors) == (70, True), errors


def test_the_first_layer_leaves_an_agent_behind(place: Place) -> None:
    assert not works(place)
    for _ in range(5):
        assert works(place)
    status = only(place)
    assert (status.served, status.sent_away, status.fallen_back, place.fallbacks) == (5, {}, 0, 1)
    assert place.socket.parent.stat().st_mode & 0o777 == 0o700


def test_64_first_clients_at_once_leave_one_agent(place: Place) -> None:
    layers = [encrypted(os.urandom(1000)) for _ in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        results = list(pool.map(lambda layer: run_layer(layer, program=place.client), layers))
    assert results == [(0, layer.plaintext, "") for layer in layers]
    assert only(place).served == CLIENTS - 1
    assert place.fallbacks == 1


def test_the_first_layer_connects_for_all(place: Place, tmp_path: Path) -> None:
    """It has the agent ask the key service, so that the second layer finds a connection."""
    peers: list[str] = []

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        peers.append(context.peer())
        return turn(request, context)

    with serving(answer=answer) as running:
        config = configuration(tmp_path, {NAME: {"grpc": running.address}})
        for _ in range(3):
            assert decrypt(config, program=place.client) == (0, PLAINTEXT, "")
    assert (len(peers), len(set(peers)), place.fallbacks, only(place).served) == (3, 1, 1, 2)


def test_a_provider_that_fails_at_the_first_layer(place: Place, tmp_path: Path) -> None:
    """The message is that of a layer without an agent. Whether the time or the connection ends first is chance."""
    config = configuration(tmp_path, {NAME: {"grpc": f"unix://{tmp_path}/nobody", "timeout": 5}})
    result = decrypt(config, program=place.client)
    cold = decrypt(config, program=PROGRAM, environment=OFF)
    beginnings = [each.errors.partition("nobody'): ")[0] for each in (result, cold)]
    assert beginnings[0] == beginnings[1]
    assert "no key opens this layer" in beginnings[0]
    assert (result.plaintext, cold.plaintext, cold.status) == (b"", b"", 6)
    assert result.status == 6


def test_it_is_there_before_the_payload_is_read(place: Place) -> None:
    """So it cannot have any key that the payload brings."""
    reading, writing = os.pipe()
    command = ["/bin/bash", "-c", f'exec "$0" 3<&{reading} {reading}<&-', place.client]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, pass_fds=[reading]) as process:
        try:
            os.close(reading)
            wait_until(lambda: bool(statuses(place)))
            assert process.poll() is None
        finally:
            os.close(writing)
            process.kill()
            kill(*children_of(process.pid))


def test_nothing_of_the_first_client_stays(place: Place, tmp_path: Path) -> None:
    lines = ("umask 0", f"cd {tmp_path}", 'trap "" USR1', "echo 300 >/proc/self/oom_score_adj")
    commands = "\n".join(("#!/bin/bash", *lines, f'exec {place.client} "$@"\n'))
    starting = script(tmp_path / "starting", commands)
    decrypts(place, starting, AWS_SECRET_ACCESS_KEY=SECRET, https_proxy=SECRET)
    pid = only(place).pid
    process = Path(f"/proc/{pid}")
    for name in ("environ", "cmdline"):
        assert SECRET.encode() not in (process / name).read_bytes()
    assert (process / "cmdline").read_bytes().startswith(b"ctd-decoder agent\0")
    assert os.readlink(process / "cwd") == "/"
    assert os.getsid(pid) == pid
    assert int((process / "oom_score_adj").read_text()) == 300  # only a lower one is reset
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
    assert status["Umask"] == "0077"
    assert int(status["SigBlk"], 16) == 0
    assert not int(status["SigIgn"], 16) & 1 << (signal.SIGUSR1 - 1)
    targets = [os.readlink(entry) for entry in (process / "fd").iterdir()]
    assert {target.partition(":")[0] for target in targets} <= {"/dev/null", "pipe", "socket", str(place.socket.parent)}
    assert SECRET not in run_layer(encrypted(b"x"), program=place.client, environment={}).errors


def test_nobody_waits_for_it(place: Place) -> None:
    """containerd reads standard error to its end, which comes with the decoder's."""
    begun = time.monotonic()
    decrypts(place, CTD_DECODER_AGENT_IDLE="0")
    assert is_running(only(place).pid)
    assert time.monotonic() - begun < 60


def test_an_agent_that_was_killed_is_replaced(place: Place) -> None:
    assert not works(place)
    before = only(place).pid
    kill_agent(before)
    assert not works(place)
    assert works(place)
    assert only(place).pid != before


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_another_programs_socket_stays(kind: socket.SocketKind, place: Place) -> None:
    """Also one of a program that is not yet listening. When that program has ended, an agent takes its place."""
    decrypts(place)
    pid = only(place).pid
    (path,) = place.socket.parent.iterdir()
    kill_agent(pid)
    path.unlink()
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(str(path))
        before = path.lstat().st_ino
        decrypts(place)
        assert path.lstat().st_ino == before
    decrypts(place)
    assert works(place)


def test_a_lock_that_is_kept_blocks_nobody(place: Place) -> None:
    directory = os.open(place.socket.parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        decrypts(place)
        assert place.fallbacks == 1
        assert statuses(place) == []
    finally:
        os.close(directory)


def test_an_agent_that_cannot_start_keeps_nobody_waiting(place: Place) -> None:
    """The program does not know how to leave one behind, as if it were another version."""
    fallback = place.directory / "fallback"
    fallback.write_text(f"#!/bin/sh\nshift\n{fallback.read_text().removeprefix('#!/bin/sh')}")
    for _ in range(3):
        decrypts(place)
    assert place.fallbacks == 3


def test_it_ends_when_idle(place: Place) -> None:
    decrypts(place, CTD_DECODER_AGENT_IDLE="1")
    pid = only(place).pid
    wait_until(lambda: not is_running(pid))
    assert list(place.socket.parent.iterdir()) == []


def test_it_ends_when_its_socket_is_removed(place: Place) -> None:
    decrypts(place)
    pid = only(place).pid
    (path,) = place.socket.parent.iterdir()
    path.unlink()
    wait_until(lambda: not is_running(pid))


@pytest.mark.parametrize(("argument", "environment"), [("--no-agent", {}), ("", OFF), ("", {"CTD_DECODER_DEBUG": "1"})])
def test_it_does_not_come_where_it_is_switched_off(argument: str, environment: dict[str, str], place: Place) -> None:
    arguments = [argument] if argument else []
    result = run_layer(encrypted(PLAINTEXT), *arguments, program=place.client, environment=environment)
    assert result == (0, PLAINTEXT, "")
    assert list(place.socket.parent.iterdir()) == []


# Libraries: what an agent has loaded must be what its clients would load.


@pytest.fixture
def libraries(tmp_path: Path) -> Path:
    directory = tmp_path / "libraries"
    directory.mkdir()
    return directory


@pytest.mark.parametrize("value", ["/opt/containerd/lib:", ":", "{empty}", "{empty}:/absent;", ""])
def test_a_library_path_that_leads_to_nothing_is_as_none(value: str, libraries: Path, place: Place) -> None:
    """containerd sets the first of these for everything that it starts; its end stands for the current directory."""
    decrypts(place)
    decrypts(place, LD_LIBRARY_PATH=value.format(empty=libraries))
    assert (only(place).served, place.fallbacks) == (1, 1)


@pytest.mark.parametrize(
    "environment",
    [{"LD_LIBRARY_PATH": "{libraries}"}, {"LD_LIBRARY_PATH": ":/absent"}, {"LD_BIND_NOW": "1"}, {"OPENSSL_CONF": "/x"}],
)
def test_other_libraries_or_settings_of_them_have_another_agent(
    environment: dict[str, str], libraries: Path, place: Place
) -> None:
    (libraries / "libexample.so.1").touch()
    decrypts(place)
    environment = {name: value.format(libraries=libraries) for name, value in environment.items()}
    there = script(place.directory / "there", f'#!/bin/sh\ncd {libraries}\nexec {place.client} "$@"\n')
    for _ in range(2):
        decrypts(place, there, **environment)
    wait_until(lambda: len(statuses(place)) == 2)
    assert (sorted(status.served for status in statuses(place)), place.fallbacks) == ([0, 1], 2)


# Where the socket may be.


def as_other_user(place: Place, runtime: Path | None) -> str:
    place.directory.chmod(0o755)
    variable = f"XDG_RUNTIME_DIR={runtime}" if runtime else "-u XDG_RUNTIME_DIR"
    become = f"setpriv --reuid={OTHER_USER} --regid={OTHER_USER} --clear-groups"
    note = place.directory / "note"
    note.touch(0o666)
    note.chmod(0o666)
    return script(place.directory / "rootless", f'#!/bin/sh\nexec env {variable} {become} {place.client} "$@"\n')


def own(directory: Path, mode: int = 0o700) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    os.chown(directory, OTHER_USER, OTHER_USER)
    directory.chmod(mode)
    return directory


def test_rootless(place: Place) -> None:
    runtime = own(place.directory / "user")
    client = as_other_user(place, runtime)
    for _ in range(3):
        decrypts(place, client)
    (path,) = (runtime / "ctd-decoder").iterdir()
    assert (runtime / "ctd-decoder").stat().st_uid == OTHER_USER
    status = ask_as_other_user(path)
    assert place.fallbacks == 1
    kill(status, *children_of(status))


def ask_as_other_user(path: Path) -> int:
    """Return the process number of an agent that listens; only its own user may ask it."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        return int.from_bytes(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 4), "little")


@pytest.mark.parametrize("kind", ["none", "relative", "writable", "of root", "link", "below /tmp", "open directory"])
def test_without_a_safe_directory_there_is_no_agent(kind: str, place: Place, tmp_path: Path) -> None:
    runtime: Path | None = own(place.directory / "user")
    if kind == "none":
        runtime = None
    elif kind == "relative":
        runtime = Path("user")
    elif kind == "writable":
        own(place.directory / "user", 0o777)
    elif kind == "of root":
        runtime = place.directory
    elif kind == "link":
        (place.directory / "user/ctd-decoder").symlink_to(own(place.directory / "elsewhere"))
    elif kind == "below /tmp":
        runtime = own(Path(f"/tmp/ctd-decoder-test-{os.getpid()}"))
    elif kind == "open directory":
        own(place.directory / "user/ctd-decoder", 0o755)
    client = as_other_user(place, runtime)
    for _ in range(2):
        decrypts(place, client)
    assert place.fallbacks == 2
    assert not list(place.directory.rglob("*.sock"))
    with suppress(OSError):
        if kind == "below /tmp" and runtime:
            (runtime / "ctd-decoder").rmdir()
            runtime.rmdir()
    assert kind != "below /tmp" or not (runtime and runtime.exists())


def test_a_layer_in_the_middle_does_not_end_with_the_agent(place: Place) -> None:
    decrypts(place)
    layer = encrypted(os.urandom(100_000))
    running = Running(place.client, layer)
    running.stdin.write(layer.ciphertext[:50_000])
    wait_until(lambda: only(place).decrypting == 1)  # else the client would start another agent
    pid = only(place).pid
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: list(place.socket.parent.iterdir()) == [])
    assert not works(place)  # another agent
    assert running.finish(layer.ciphertext[50_000:])[0] == 0
    wait_until(lambda: not is_running(pid))
