"""A worker decrypts several layers, one after another: none knows anything of the one before."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from decoder import limits
from tests.support.keywrap.layers import encrypted, pem, rsa_key
from tests.support.program.agent import (
    MIB,
    Agent,
    Place,
    Running,
    begin,
    is_running,
    kill,
    wait_until,
    worker_of,
    works,
)
from tests.support.program.onelayer import PLAINTEXT, run_layer
from tests.support.provider.client_parts import script

pytestmark = pytest.mark.usefixtures("unmeasured")  # measuring leaves modules behind, as some layers do
# However busy the machine is, a worker waits for its next layer, and for threads to end, until the test is over.
PATIENT = "from decoder import limits\nlimits.AGENT_NEXT_LAYER_SECONDS = 600\nlimits.AGENT_THREAD_POLLS = 1_000_000\n"
LAYERS = 9  # more than there are workers while one of them is busy


@pytest.fixture
def agent(place: Place) -> Iterator[Agent]:
    with Agent(place, before=PATIENT) as agent:
        yield agent


def decrypt(place: Place, agent: Agent) -> int:
    """Decrypt a layer, and return the process that did."""
    running, rest = begin(place.client)
    worker = worker_of(agent, running.process.pid)
    assert running.finish(rest) == (0, 4 * MIB - 1, "")
    return worker


def test_a_worker_decrypts_several_layers(place: Place, agent: Agent) -> None:
    workers = Counter(decrypt(place, agent) for _ in range(LAYERS))
    assert max(workers.values()) > 1
    assert all(map(is_running, workers))
    status = agent.status()
    assert status
    assert (status.served, status.fallen_back, status.decrypting) == (LAYERS, 0, 0)


def test_but_not_too_many(place: Place) -> None:
    with Agent(place, before=f"{PATIENT}limits.AGENT_LAYERS_OF_A_WORKER = 2\n") as agent:
        workers = Counter(decrypt(place, agent) for _ in range(LAYERS))
        assert max(workers.values()) == 2
        wait_until(lambda: not any(is_running(worker) for worker, count in workers.items() if count == 2))
        assert place.fallbacks == 0


def test_a_worker_ends_if_no_layer_follows(place: Place) -> None:
    with Agent(place) as agent:
        worker = decrypt(place, agent)
        wait_until(lambda: not is_running(worker))
        wait_until(lambda: len(agent.children) == limits.AGENT_SPARE_WORKERS)
        assert works(place)


def test_a_worker_ends_after_a_failure(place: Place, agent: Agent) -> None:
    running, rest = begin(place.client)
    worker = worker_of(agent, running.process.pid)
    assert running.finish(rest[:-1])[0] == 5
    wait_until(lambda: not is_running(worker))
    assert works(place)


def test_a_worker_ends_if_its_layer_left_something(place: Place, agent: Agent) -> None:
    """Where temporary files are would be that of the first client, for example."""
    layer = encrypted(os.urandom(MIB))
    running = Running(place.client, layer, "--release", "verified")
    running.stdin.write(layer.ciphertext[:1000])
    worker = worker_of(agent, running.process.pid)
    assert running.finish(layer.ciphertext[1000:]) == (0, MIB, "")
    wait_until(lambda: not is_running(worker))


def test_descriptors_are_those_of_a_new_worker(place: Place, agent: Agent) -> None:
    new: list[list[str]] = []

    def are_waiting() -> bool:
        new[:] = [descriptors_of(child) for child in agent.children]
        return len(new) == limits.AGENT_SPARE_WORKERS and all(map(is_waiting, new))

    wait_until(are_waiting)
    assert new[0] == new[1]
    for _ in range(LAYERS):
        worker = decrypt(place, agent)
        wait_until(lambda worker=worker: is_waiting(descriptors_of(worker)))  # type: ignore[misc]
        assert descriptors_of(worker) == new[0]


def is_waiting(descriptors: list[str]) -> bool:
    """Tell whether a worker waits for a client: neither rehearses nor has one, nor ends."""
    return any("eventpoll" in descriptor for descriptor in descriptors)


def descriptors_of(process: int) -> list[str]:
    """Say what a process has open."""
    found = []
    with suppress(FileNotFoundError, ProcessLookupError):  # it ends, or closes one just now
        folder = f"/proc/{process}/fd"
        found = [f"{entry} {os.readlink(f'{folder}/{entry}')}" for entry in sorted(os.listdir(folder), key=int)]
    return found


def test_directory_and_environment_are_the_clients(place: Place, agent: Agent, tmp_path: Path) -> None:
    """A client without a key gets none of the client before, whose directory and environment had one."""
    layer = encrypted(PLAINTEXT)
    for name in ("with", "without"):
        (tmp_path / name / "keys").mkdir(parents=True)
    (tmp_path / "with/keys/key.pem").write_bytes(pem(rsa_key()))
    arguments = ["--decryption-keys-path", "keys"]
    credentials = {"CREDENTIALS_DIRECTORY": str(tmp_path / "with/keys")}
    has_key = script(tmp_path / "has-key", f'#!/bin/sh\ncd {tmp_path}/with && exec {place.client} "$@"\n')
    has_none = script(tmp_path / "has-none", f'#!/bin/sh\ncd {tmp_path}/without && exec {place.client} "$@"\n')
    for _ in range(LAYERS):
        result = run_layer(layer, *arguments, parameters={}, program=has_key, environment=credentials)
        assert result == (0, PLAINTEXT, "")
        assert run_layer(layer, *arguments, parameters={}, program=has_none).status == 4
    assert place.fallbacks == 0
    assert agent.process.poll() is None


def test_each_client_is_compared(place: Place, agent: Agent) -> None:
    limited = script(place.directory / "limited", f'#!/bin/sh\nexec prlimit --nofile=500 {place.client} "$@"\n')
    for number in range(LAYERS):
        assert works(place)
        assert run_layer(encrypted(PLAINTEXT), program=limited) == (0, PLAINTEXT, "")
        assert place.fallbacks == number + 1
    status = agent.status()
    assert status
    assert (status.served, status.sent_away) == (LAYERS, {"Max open files": LAYERS})


def test_a_worker_is_killed_in_a_later_layer(place: Place, agent: Agent) -> None:
    for _ in range(LAYERS):
        decrypt(place, agent)
    running, rest = begin(place.client)
    kill(worker_of(agent, running.process.pid))
    status, _, errors = running.finish(rest)
    assert (status, errors) == (70, "ctd-decoder: error: the agent ended before the layer did\n")
    assert works(place)
    counted = agent.status()
    assert counted
    assert (counted.served, counted.fallen_back) == (LAYERS + 2, 0)


def test_the_agent_ends_although_workers_wait(place: Place, agent: Agent) -> None:
    workers = {decrypt(place, agent) for _ in range(LAYERS)}
    agent.process.terminate()
    assert agent.process.wait(120) == 0
    assert not any(map(is_running, workers))
    assert not works(place)
