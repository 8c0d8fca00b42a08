"""SIGKILL and SIGTERM at random moments, to everything that has a part in a layer: no failure looks like a success.

containerd believes a layer that ends with status 0. So with status 0 all of the plaintext must have come out, whoever
was killed when, and nothing but the plaintext's beginning may come out otherwise.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.keywrap.layers import encrypted, pem, rsa_key
from tests.support.program.agent import Agent, Place, children_of, kill
from tests.support.program.processes import PROGRAM, payload_bytes

pytestmark = pytest.mark.usefixtures("unmeasured")
ROUNDS = 200
VICTIMS = ("decoder", "client", "worker", "zygote")
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
_SECONDS = 120
_LAYER_BYTES = 8 * 1024 * 1024


class Files(NamedTuple):
    """A layer in files, as a program reads it without our help."""

    plaintext: bytes
    ciphertext: Path
    payload: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    directory = tmp_path_factory.mktemp("layer")
    layer = encrypted(random.Random(1).randbytes(_LAYER_BYTES))
    ciphertext, payload = directory / "ciphertext", directory / "payload"
    ciphertext.write_bytes(layer.ciphertext)
    payload.write_bytes(payload_bytes(layer.descriptor, {"privkeys": [pem(rsa_key())]}))
    return Files(layer.plaintext, ciphertext, payload)


class Ended(NamedTuple):
    """How a round ended."""

    status: int
    plaintext: bytes
    errors: str
    seconds: float


class Kill(NamedTuple):
    """Whom to send a signal, which one, and when, in seconds after the start."""

    victim: str
    number: signal.Signals
    after: float

    def send(self, process: int, agent: Agent | None) -> None:
        """Send it; `process` is the decoder or client."""
        zygote = agent.process.pid if agent else 0
        time.sleep(self.after)
        chosen = {"worker": children_of(zygote), "zygote": [zygote]}.get(self.victim, [process])
        for each in chosen:
            with suppress(ProcessLookupError):
                os.kill(each, self.number)


def decrypt(
    program: str, files: Files, directory: Path, attack: Kill | None = None, agent: Agent | None = None
) -> Ended:
    """Decrypt the layer while the signal is sent, and wait for the end."""
    out, errors = directory / "out", directory / "errors"
    command = ["/bin/bash", "-c", 'exec "$0" <"$1" 3<"$2" >"$3" 2>"$4"', program]
    began = time.monotonic()
    with subprocess.Popen([*command, *map(str, (files.ciphertext, files.payload, out, errors))]) as process:
        if attack:
            attack.send(process.pid, agent)
        status = process.wait(_SECONDS)
    return Ended(status, _taken(out), _taken(errors).decode(), time.monotonic() - began)


def _taken(path: Path) -> bytes:
    """Read a file and remove it; a process that dies early has made none."""
    content = path.read_bytes() if path.exists() else b""
    path.unlink(missing_ok=True)
    return content


def check(ended: Ended, files: Files, what: str) -> None:
    assert files.plaintext.startswith(ended.plaintext), f"{what}: something other than the layer came out"
    if ended.status == 0:
        assert len(ended.plaintext) == _LAYER_BYTES, f"{what}: status 0 after {len(ended.plaintext)} bytes"
    assert "Traceback" not in ended.errors, what


def living(agent: Agent | None, place: Place) -> Agent:
    """Return the agent, or another one if it has died."""
    if agent is not None and agent.process.poll() is None:
        return agent
    leave(agent)
    place.socket.unlink(missing_ok=True)
    return Agent(place).__enter__()


def leave(agent: Agent | None) -> None:
    """End what is left of an agent, whatever it has said."""
    if agent is not None:
        workers = children_of(agent.process.pid)
        kill(agent.process.pid, *workers)
        agent.process.wait()


@pytest.mark.parametrize("victim", VICTIMS)
def test_no_failure_looks_like_a_success(victim: str, files: Files, place: Place, tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    program = PROGRAM if victim == "decoder" else place.client
    agent: Agent | None = None
    statuses = []
    try:
        agent = None if victim == "decoder" else living(None, place)
        undisturbed = decrypt(program, files, tmp_path)
        assert undisturbed[:3] == (0, files.plaintext, "")
        for number in range(ROUNDS // len(VICTIMS)):
            agent = None if victim == "decoder" else living(agent, place)
            attack = Kill(victim, chance.choice(SIGNALS), chance.uniform(0, undisturbed.seconds))
            ended = decrypt(program, files, tmp_path, attack, agent)
            check(ended, files, f"seed {seed}, round {number}, {attack}")
            statuses.append(ended.status)
    finally:
        leave(agent)
    assert len(statuses) == ROUNDS // len(VICTIMS)
    if victim in ("decoder", "client"):
        assert any(statuses), "no signal came in time to do harm"
