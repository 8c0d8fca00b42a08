"""Decoders in turn: small layers one after another, many at once, an image, and layers by scheme and by size."""

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.hmac import HMAC

from bench.figures import Figure, size_text
from bench.layers import IMAGE_BYTES, SMALL_BYTES, make_layer, schemes
from bench.programs import GIB, MIB, PACKAGE, PIP, PIP_WARM, WARM, Bench, Layer, Run, run, stop_agent

_SETTLING_SECONDS = 0.6  # then the agent that the turn before has left behind has its workers ready
_LARGE_BYTES = 256 * MIB  # more is shown of these layers, and the length of their plaintext is compared instead of it
_BLOCK = bytes(256 * 1024)  # stays in the processor's cache


class Case(NamedTuple):
    """What a decoder does in one turn: layers of these sizes one after another, `copies` of it at once.

    `pause` is in seconds, after each layer: containerd unpacks a small one in about 60 ms.
    """

    part: str
    what: str
    sizes: Sequence[int]
    scheme: str = "JWE RSA"
    copies: int = 1
    pause: float = 0

    def rounds(self, bench: Bench) -> int:
        """Return how often the programs take turns: less often with what takes longer."""
        if len(self.sizes) > 100 or max(self.sizes) > GIB:
            return 1
        is_short = len(self.sizes) * self.copies == 1 and self.sizes[0] < 16 * MIB
        return bench.rounds if is_short else bench.third()


CASES = [
    *(
        Case("layers", f"layers of {SMALL_BYTES} bytes, {name}: {count}", [SMALL_BYTES] * count, pause=pause)
        for count in (1, 21, 200)
        for name, pause in (("back to back", 0.0), ("60 ms apart", 0.06))
    ),
    *(
        Case("at-once", f"{size_text(size)} layers, all at once: {copies}", [size], copies=copies)
        for copies, size in ((16, SMALL_BYTES), (64, SMALL_BYTES), (4, 64 * MIB), (16, 64 * MIB))
    ),
    Case("image", f"an image of {len(IMAGE_BYTES)} layers", IMAGE_BYTES),
    *(
        Case("scheme", f"{size_text(size)} layer, {scheme}", [size], scheme)
        for scheme in ("JWE RSA", "JWE EC", "PKCS#7", "OpenPGP", "`cmd` provider", "`grpc` provider")
        for size in (SMALL_BYTES, 16 * MIB)
    ),
    *(
        Case("size", f"{size_text(size)} layer, pipe to pipe", [size])
        for size in (0, SMALL_BYTES, 64 * 1024, MIB, 16 * MIB, 128 * MIB, GIB, 10 * GIB)
    ),
]


def decrypt(part: str, bench: Bench) -> Iterator[Figure]:
    """Measure the cases of a part. Before that, each program works once and its plaintext is compared."""
    with schemes() as by_name:
        for case in (case for case in CASES if case.part == part and max(case.sizes) <= bench.largest):
            layers = {size: make_layer(size, by_name[case.scheme]) for size in case.sizes}
            for layer in (layer for layer in layers.values() if layer.size < _LARGE_BYTES):
                for program in set(bench.programs.values()):
                    run(program, layer, check_bytes=True, copies=case.copies)
            yield from _measure(case, bench, [layers[size] for size in case.sizes])


def _measure(case: Case, bench: Bench, layers: Sequence[Layer]) -> Iterator[Figure]:
    """Run each program once in every round, so that other load on the machine affects all of them."""
    runs: dict[str, list[Run]] = {name: [] for name in bench.programs}
    alone = []
    is_large = case.part == "size" and layers[0].size >= _LARGE_BYTES
    for _ in range(case.rounds(bench)):
        for name, program in bench.programs.items():
            if name in (PACKAGE, PIP):
                stop_agent()
            elif name in (WARM, PIP_WARM):
                time.sleep(_SETTLING_SECONDS)
            taken = []
            for layer in layers:
                taken.append(run(program, layer, copies=case.copies))
                time.sleep(case.pause)
            walls, cpus, peaks = zip(*taken, strict=True)
            runs[name].append(Run(sum(walls), sum(cpus), max(peaks)))
        if is_large:
            alone.append(_hmac_alone(layers[0].size))
    yield Figure(case.part, case.what, "time", {name: [each.wall for each in taken] for name, taken in runs.items()})
    if is_large:
        yield from _details(case, runs, alone)


def _details(case: Case, runs: dict[str, list[Run]], alone: list[float]) -> Iterator[Figure]:
    """Show more of a large layer. What an agent's workers take is not known: the kernel adds it to the agent."""
    known = {name: taken for name, taken in runs.items() if name not in (WARM, PIP_WARM)}
    cpus = {name: [each.cpu for each in taken] for name, taken in known.items()}
    peaks = {name: [float(each.peak) for each in taken] for name, taken in known.items()}
    rates = {name: [case.sizes[0] / each.wall for each in taken] for name, taken in runs.items()}
    rates["HMAC-SHA256 alone"] = [case.sizes[0] / each for each in alone]
    yield Figure(case.part, f"{case.what}, CPU", "CPU time", cpus)
    yield Figure(case.part, f"{case.what}, peak memory", "memory", peaks)
    yield Figure(case.part, f"{case.what}, share of the bound", "rate", rates)


def _hmac_alone(size: int) -> float:
    """Return the seconds that the HMAC alone takes, in memory: no decoder can be faster than that."""
    hmac, started = HMAC(bytes(32), hashes.SHA256()), time.perf_counter()
    for start in range(0, size, len(_BLOCK)):
        hmac.update(memoryview(_BLOCK)[: size - start])
    return time.perf_counter() - started
