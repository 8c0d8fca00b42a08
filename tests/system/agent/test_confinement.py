"""A client is served only by an agent with the same rights and the same view of the system; both sides check that."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from decoder.agent.status import ask
from tests.support.keywrap.layers import encrypted
from tests.support.program.agent import Agent, Place, works
from tests.support.program.onelayer import PLAINTEXT, run_layer
from tests.support.provider.client_parts import script

# Load a seccomp filter that allows everything (seccomp(2)), and start a program.
_FILTERED = f"""\
#!{sys.executable}
import ctypes, os, sys
libc = ctypes.CDLL(None)
class Filter(ctypes.Structure):
    _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint)]
class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.POINTER(Filter))]
allow = Filter(6, 0, 0, 0x7FFF0000)
assert libc.prctl(22, 2, ctypes.byref(Program(1, ctypes.pointer(allow))), 0, 0) == 0
os.execvp(sys.argv[1], sys.argv[1:])
"""

# A client that does not look at whom it speaks with.
_CARELESS = f"""\
#!{sys.executable}
import os, socket, sys
from decoder.agent import messages
connection = socket.socket(socket.AF_UNIX)
connection.settimeout(60)
connection.connect(sys.argv[1])
messages.receive(connection, 100, 60)
null = os.open(os.devnull, os.O_RDWR)
streams = {{place: os.dup(null) for place in range(4)}}
messages.send_request(connection, messages.Request(["--version"], {{}}, streams, os.open("/", os.O_PATH)))
print(connection.recv(100))
"""

WRAPPERS = {
    "seccomp": ("{filtered}", "Seccomp"),
    "no new privileges": ("setpriv --no-new-privs", "NoNewPrivs"),
    "bounding set": ("setpriv --bounding-set=-net_raw", "CapPrm"),
    "inheritable capabilities": ("setpriv --inh-caps=+net_raw", "CapInh"),
    "groups": ("setpriv --groups=4,5", "Groups"),
    "group": ("setpriv --regid=4 --keep-groups", "Gid"),
    "mounts": ("unshare --mount", "Namespace"),
    "network": ("unshare --net", "Namespace"),
    "processes": ("unshare --pid --fork --kill-child", "Namespace"),
    "host name": ("unshare --uts", "Namespace"),
    "System V IPC": ("unshare --ipc", "Namespace"),
    "control groups": ("unshare --cgroup", "Namespace"),
    "largest file": ("prlimit --fsize=1000000000", "Max file size"),
    "open files": ("prlimit --nofile=1000:1000", "Max open files"),
}


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Place, Agent]]:
    with Place() as place, Agent(place) as agent:
        yield place, agent


def wrapped(kind: str, directory: Path, command: str) -> str:
    filtered = script(directory / "filtered", _FILTERED)
    wrapper = WRAPPERS[kind][0].format(filtered=filtered)
    return script(directory / "wrapped", f'#!/bin/sh\nexec {wrapper} {command} "$@"\n')


@pytest.mark.parametrize("kind", WRAPPERS)
def test_the_client_refuses_an_agent_that_is_not_like_it(
    kind: str, running: tuple[Place, Agent], tmp_path: Path
) -> None:
    place, agent = running
    before, told = place.fallbacks, sent_away(agent)
    client = wrapped(kind, tmp_path, place.client)
    assert run_layer(encrypted(PLAINTEXT), program=client) == (0, PLAINTEXT, "")
    assert place.fallbacks == before + 1
    now = sent_away(agent)
    reasons = [reason for reason in now if now[reason] > told.get(reason, 0)]
    # A worker has no number in another PID namespace, so it is not even spoken to.
    assert reasons == ([] if kind == "processes" else [WRAPPERS[kind][1]])
    assert works(place)


@pytest.mark.parametrize("kind", [kind for kind in WRAPPERS if kind != "processes"])
def test_a_worker_refuses_a_client_that_is_not_like_it(kind: str, running: tuple[Place, Agent], tmp_path: Path) -> None:
    place, agent = running
    told = sent_away(agent)
    client = wrapped(kind, tmp_path, script(tmp_path / "careless", _CARELESS))
    done = subprocess.run([client, place.socket], capture_output=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, b"b''\n"), done.stderr
    assert sum(sent_away(agent).values()) == sum(told.values()) + 1


def test_a_careless_client_that_is_like_it_is_served(running: tuple[Place, Agent], tmp_path: Path) -> None:
    """So the tests above do not refuse for another reason."""
    place, _ = running
    careless = script(tmp_path / "careless", _CARELESS)
    done = subprocess.run([careless, place.socket], capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"b'\\x00\\x00\\x00\\x04\\x93")


def sent_away(agent: Agent) -> dict[str, int]:
    status = agent.status()
    assert status is not None
    return status.sent_away


def test_a_confined_client_starts_an_agent_that_is_confined_too(tmp_path: Path) -> None:
    """What it may not do, nobody does for it: not the command of a keyprovider either."""
    with Place(starts=True) as place:
        client = wrapped("bounding set", tmp_path, place.client)
        for program in (place.client, client, place.client, client):
            assert run_layer(encrypted(PLAINTEXT), program=program) == (0, PLAINTEXT, "")
        assert place.fallbacks == 2
        sockets = list(place.socket.parent.glob("*.sock"))
        assert len(sockets) == 2
        bounding = set()
        for path in sockets:
            status = ask(path)
            assert status is not None
            text = Path(f"/proc/{status.pid}/status").read_text()
            bounding.add(text.partition("CapBnd:\t")[2].partition("\n")[0])
            os.kill(status.pid, 15)
        assert len(bounding) == 2
