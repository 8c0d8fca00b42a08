"""How much memory decoders and the agent take: the proportional set size (Pss), which counts what is shared once."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from bench.decoders import SMALL_BYTES, Extent
from bench.layers import make_layer
from bench.process import ciphertext
from bench.programs import MIB, PACKAGE, REFERENCE, SECONDS, RunError, run, stop_agent

_DECODERS = 64
_LAYER_BYTES = 4 * MIB
_RESTING_SECONDS = 12.0  # AGENT_REST_SECONDS and what it takes


def memory(programs: Mapping[str, Path], _extent: Extent) -> Iterator[Sequence[str]]:
    """Measure the agent when it is idle, and decoders that have begun and wait for the rest of their layers."""
    package = programs[PACKAGE]
    stop_agent()
    run(package, make_layer(SMALL_BYTES))
    time.sleep(_RESTING_SECONDS)
    yield "memory of an idle agent", "-", f"{_pss(_agent(package)) / MIB:.1f} MiB", "-"
    reference, ours = (_of_many(programs[name]) for name in (REFERENCE, PACKAGE))
    stop_agent()
    what = f"memory of {_DECODERS} decoders at once, per process, agent counted in"
    yield what, f"{reference / MIB:.1f} MiB", f"{ours / MIB:.1f} MiB", f"{ours / reference:.2f}"


def _of_many(program: Path) -> float:
    """Start decoders, feed each half of its layer, and return the memory of one in bytes.

    Raises:
        RunError: they do not take what they are fed.
    """
    layer, half, feeds = make_layer(_LAYER_BYTES), b"".join(ciphertext(_LAYER_BYTES // 2)), []
    processes = []
    for _ in range(_DECODERS):
        (stdin, feed), (config, send) = os.pipe(), os.pipe()
        os.write(send, layer.payload)
        os.close(send)
        null = os.open(os.devnull, os.O_WRONLY)
        moves = [(os.POSIX_SPAWN_DUP2, *move) for move in ((stdin, 0), (null, 1), (config, 3))]
        moves.append((os.POSIX_SPAWN_DUP2, null, 2))  # a layer that ends half-way has an error
        processes.append(os.posix_spawn(program, [str(program)], os.environ, file_actions=moves))
        for descriptor in (stdin, config, null):
            os.close(descriptor)
        feeds.append(feed)
    try:
        for feed in feeds:
            _write(feed, half)
        time.sleep(1)  # the pipes hold at most half of it; they take what is in them
        return _pss([*processes, *_agent(program)]) / _DECODERS
    finally:
        for process, feed in zip(processes, feeds, strict=True):
            os.close(feed)
            os.waitpid(process, 0)


def _write(feed: int, data: bytes) -> None:
    os.set_blocking(feed, False)
    end = time.monotonic() + SECONDS
    while data:
        if time.monotonic() > end:
            raise RunError("a decoder does not read its layer")
        with suppress(BlockingIOError):
            data = data[os.write(feed, data) :]
            continue
        time.sleep(0.01)


def _agent(program: Path) -> list[int]:
    """List the processes of the agents."""
    asked = subprocess.run([program, "agent", "status", "--json"], capture_output=True, check=False)
    agents = [int(each["pid"]) for each in json.loads(asked.stdout or b"[]")]
    children = (Path(f"/proc/{pid}/task/{pid}/children").read_text().split() for pid in agents)
    return agents + [int(child) for each in children for child in each]


def _pss(processes: Sequence[int]) -> int:
    """Return what processes take, in bytes; one that has ended takes nothing."""
    total = 0
    for process in processes:
        with suppress(OSError):
            text = Path(f"/proc/{process}/smaps_rollup").read_text()
            total += int(text.partition("\nPss:")[2].split()[0]) * 1024
    return total
