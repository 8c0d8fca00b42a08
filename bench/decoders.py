"""Decoders in turn: small layers one after another, many at once, an image, and layers by scheme and by size."""

import time
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.hmac import HMAC

from bench.layers import make_layer, schemes
from bench.programs import MIB, PACKAGE, PIP, PIP_WARM, WARM, Bench, Layer, Run, run, stop_agent
from bench.report.figures import Figure

_SETTLING_SECONDS = 0.6  # then the agent that the turn before has left behind has its workers ready
_LARGE_BYTES = 256 * MIB  # more is shown of these layers, and the length of their plaintext is compared instead of it
_BLOCK = bytes(256 * 1024)  # stays in the processor's cache


class Case(NamedTuple):
    """What a decoder does in one turn; cases.toml describes it."""

    what: str
    sizes: Sequence[int]
    times: int = 1
    copies: int = 1
    pause: float = 0
    scheme: str = "JWE RSA"
    every: int = 1


_TABLE = tomllib.loads(Path(__file__).with_name("cases.toml").read_text())
CASES = {part: [Case(**case) for case in cases] for part, cases in _TABLE.items()}


def decrypt(part: str, bench: Bench) -> Iterator[Figure]:
    """Measure the cases of a part. Before each, every program works once and its plaintext is compared."""
    with schemes() as by_name:
        for case in (case for case in CASES[part] if max(case.sizes) <= bench.largest):
            layers = {size: make_layer(size, by_name[case.scheme]) for size in case.sizes}
            for layer in (layer for layer in layers.values() if layer.size < _LARGE_BYTES):
                for program in set(bench.programs.values()):
                    run(program, layer, check_bytes=True, copies=case.copies)
            yield from _measure(case, bench, [layers[size] for size in case.sizes] * case.times)


def _measure(case: Case, bench: Bench, layers: Sequence[Layer]) -> Iterator[Figure]:
    """Run each program once in every round, so that other load on the machine affects all of them."""
    runs: dict[str, list[Run]] = {name: [] for name in bench.programs}
    alone = []
    is_large = layers[0].size >= _LARGE_BYTES
    for _ in range(bench.turns(case.every)):
        for name, program in bench.programs.items():
            if name in (PACKAGE, PIP):
                stop_agent()
            elif name in (WARM, PIP_WARM):
                time.sleep(_SETTLING_SECONDS)
            taken = []
            for layer in layers:
                taken.append(run(program, layer, copies=case.copies))
                time.sleep(case.pause)
            _, walls, cpus, peaks = zip(*taken, strict=True)
            runs[name].append(Run("", sum(walls), sum(cpus), max(peaks)))
        if is_large:
            alone.append(_hmac_alone(layers[0].size))
    yield Figure(case.what, "time", {name: [each.wall for each in taken] for name, taken in runs.items()})
    if is_large:
        yield from _details(case, runs, alone)


def _details(case: Case, runs: dict[str, list[Run]], alone: list[float]) -> Iterator[Figure]:
    """Show more of a large layer. What an agent's workers take is not known: the kernel adds it to the agent."""
    known = {name: taken for name, taken in runs.items() if name not in (WARM, PIP_WARM)}
    cpus = {name: [each.cpu for each in taken] for name, taken in known.items()}
    peaks = {name: [each.peak for each in taken] for name, taken in known.items()}
    rates = {name: [case.sizes[0] / each.wall for each in taken] for name, taken in runs.items()}
    rates["HMAC-SHA256 alone"] = [case.sizes[0] / each for each in alone]
    yield Figure(f"{case.what}, CPU", "CPU time", cpus)
    yield Figure(f"{case.what}, peak memory", "memory", peaks)
    yield Figure(f"{case.what}, share of the bound", "rate", rates)


def _hmac_alone(size: int) -> float:
    """Return the seconds that the HMAC alone takes, in memory: no decoder can be faster than that."""
    hmac, started = HMAC(bytes(32), hashes.SHA256()), time.perf_counter()
    for start in range(0, size, len(_BLOCK)):
        hmac.update(memoryview(_BLOCK)[: size - start])
    return time.perf_counter() - started
