"""Many layers at once, slow ones among them, and many in a row."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from decoder import limits
from tests.support.keywrap.layers import encrypted, pem, rsa_key
from tests.support.program.agent import MIB, Agent, Place, Running, wait_until, works
from tests.support.program.onelayer import run_layer
from tests.support.program.processes import payload_bytes

pytestmark = pytest.mark.usefixtures("unmeasured")
CLIENTS = 64
SMALL = b"a small layer\n"
LAYERS = 10_000
SIDE_BY_SIDE = 2  # how many of them at a time
MEMORY_GROWTH_KIB = 1024


def test_64_clients_at_once(place: Place) -> None:
    """Nobody fails; who would wait for too long decrypts without the agent."""
    layers = [encrypted(os.urandom(100_000)) for _ in range(CLIENTS)]
    with Agent(place) as agent, ThreadPoolExecutor(CLIENTS) as pool:
        results = list(pool.map(lambda layer: run_layer(layer, program=place.client), layers))
        assert results == [(0, layer.plaintext, "") for layer in layers]
        assert place.fallbacks < CLIENTS
        wait_until(lambda: works(place))
        assert agent.process.poll() is None


def test_a_slow_reader_keeps_nobody_else_out(place: Place) -> None:
    layer = encrypted(os.urandom(3 * MIB))
    with Agent(place):
        running = Running(place.client, layer)
        feeder = threading.Thread(target=lambda: (running.stdin.write(layer.ciphertext), running.stdin.close()))
        feeder.start()
        plaintext = b""
        others = 0
        while chunk := running.stdout.read(MIB // 2):
            plaintext += chunk
            others += works(place)
            time.sleep(0.1)
        feeder.join()
        assert (running.process.wait(120), plaintext) == (0, layer.plaintext)
        assert others >= 6
        running.stdout.close()
        assert running.process.stderr is not None
        running.process.stderr.close()


def test_many_layers_leave_nothing_behind(place: Place) -> None:
    """Neither memory nor descriptors nor processes grow with the number of layers."""
    layer = encrypted(SMALL)
    payload, ciphertext = place.directory / "payload", place.directory / "layer"
    payload.write_bytes(payload_bytes(layer.descriptor, {"privkeys": [pem(rsa_key())]}))
    ciphertext.write_bytes(layer.ciphertext)
    with Agent(place) as agent:
        decrypt_many(place, payload, ciphertext, LAYERS // 50)
        before = usage(agent)
        decrypt_many(place, payload, ciphertext, LAYERS)
        after = usage(agent)
    assert place.fallbacks <= LAYERS // 1000  # clients that a busy machine held up for seconds
    assert after[0] <= before[0] + MEMORY_GROWTH_KIB
    assert after[1:] == before[1:]


def decrypt_many(place: Place, payload: Path, ciphertext: Path, count: int) -> None:
    """Decrypt a layer of SMALL so often, and look at all that came out."""
    share = count // SIDE_BY_SIDE

    def decrypt_share(number: int) -> None:
        out = place.directory / f"out-{number}"
        out.write_bytes(b"")
        opened = ((0, ciphertext, os.O_RDONLY), (1, out, os.O_WRONLY | os.O_APPEND), (3, payload, os.O_RDONLY))
        actions = [(os.POSIX_SPAWN_OPEN, descriptor, str(path), flags, 0) for descriptor, path, flags in opened]
        for _ in range(share):
            process = os.posix_spawn(place.client, [place.client], os.environ, file_actions=actions)
            assert os.waitpid(process, 0)[1] == 0
        assert out.read_bytes() == SMALL * share

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        list(pool.map(decrypt_share, range(SIDE_BY_SIDE)))  # raises what they raise


def usage(agent: Agent) -> tuple[int, int]:
    """Return the memory of the zygote in KiB, and the number of its descriptors, once it has only spare workers."""
    counts: list[int] = []

    def is_quiet() -> bool:
        counts.append(len(agent.children))
        return counts[-50:] == [limits.AGENT_SPARE_WORKERS] * 50

    wait_until(is_quiet)
    status = Path(f"/proc/{agent.process.pid}/status").read_text()
    resident = int(status.partition("VmRSS:")[2].split()[0])
    return resident, len(os.listdir(f"/proc/{agent.process.pid}/fd"))
