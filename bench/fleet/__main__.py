"""`python -m bench.fleet`: load a key server, simulate a fleet with what that took, and print both as Markdown."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from bench.fleet.load import Load, run
from bench.fleet.openbao import transit
from bench.fleet.server import Server, serving
from bench.fleet.simulation import Costs, Outcome, Scenario, simulate
from bench.programs import RunError
from decoder.provider import create
from decoder.provider.client import protocol
from decoder.provider.envelope import new_kek, parse, seal

_OPTIONS = b"x" * 200  # about as long as private options are
_CALL_SECONDS = 30.0
_SHARE = 0.3
_CLIENTS = (1, 8, 64, 512)
_LOAD_COLUMNS = (
    "provider, processes", "clients", "connection", "calls/s", "p50 ms", "p99 ms", "server ms", "generator ms"
)  # fmt: skip
_FLEET_COLUMNS = (
    *("provider", "nodes ask", "images", "replicas", "p50 s", "p99 s", "last node done s"),
    *("calls of the key service", "most in 1 s"),
)
_NODES, _LAYERS, _SECONDS = 10_000, 21, 60.0
_MOST_REPLICAS = 40


def main() -> int:
    """Measure, and return the exit status: 0 whatever the figures, 1 if a program failed."""
    parser = ArgumentParser(prog="bench.fleet", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer calls and a smaller fleet")
    is_quick = parser.parse_args().quick
    try:
        local, openbao = _measure(400 if is_quick else 4000)
    except (OSError, RunError) as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return 1
    _simulate(local, openbao, _NODES // 10 if is_quick else _NODES)
    return 0


def _measure(calls: int) -> tuple[Costs, Costs]:
    """Print the loads, and return what they say of a call with the providers local and openbao."""
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f} before.\n")
    _print_row(_LOAD_COLUMNS)
    _print_row(["---"] * len(_LOAD_COLUMNS))
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory()))
        key = directory / "image.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(32))
        options = ["--provider", "local", "--key", str(key)]
        message = _unwrap_of("local", {"key": str(key)}, is_envelope=True)
        with serving(directory, 1, options) as server:
            kept = [_load("local, 1", server, message, Asking(clients, calls)) for clients in _CLIENTS]
            _load("local, 1", server, message, Asking(64, calls, rate=kept[2].rate / 2))
            each = [
                _load("local, 1", server, message, Asking(clients, calls // 4, is_kept=False)) for clients in _CLIENTS
            ]
        with serving(directory, 2, options) as server:
            for clients in _CLIENTS[2:]:
                _load("local, 2", server, message, Asking(clients, calls))
        for processes in (1, 2):
            with serving(directory, processes, options, _SHARE) as server:
                _load(f"local, {processes} with {_SHARE} processors each", server, message, Asking(256, calls * 5 // 4))
        call = kept[2].server / kept[2].calls
        connection = max(0.0, each[2].server / each[2].calls - call)
        openbao = stack.enter_context(transit(directory))
        named: dict[str, object] = dict(
            zip((text.removeprefix("--") for text in openbao[::2]), openbao[1::2], strict=True)
        )
        old, envelope = (_unwrap_of("openbao", named, is_envelope) for is_envelope in (False, True))
        with serving(directory, 1, ["--provider", "openbao", *openbao]) as server:
            alone = _load("openbao, each call asks it, 1", server, old, Asking(1, calls // 10))
            most = _load("openbao, each call asks it, 1", server, old, Asking(64, calls // 4))
            _load("openbao, kept keys, 1", server, envelope, Asking(64, calls))
    asking = max(0.0, most.server / most.calls - call)
    return Costs(call, connection), Costs(call, connection, asking, alone.quantile(0.5), most.rate)


def _unwrap_of(provider: str, options: dict[str, object], is_envelope: bool) -> bytes:
    """Return the message that asks to unwrap a layer's options, in an envelope or as earlier versions wrap them."""
    own = create(provider, options)
    kek = new_kek()
    if is_envelope and (letter := parse(own.perform("wrap-kek", kek, [], _CALL_SECONDS))):
        annotation = seal(kek, letter.provider, letter.wrapped_kek, _OPTIONS)
    else:
        annotation = own.wrap(_OPTIONS, [])
    return protocol.build_message(protocol.build_request("keyunwrap", annotation, "bench", []))


class Asking(NamedTuple):
    """How clients ask; see `bench.fleet.load.run`."""

    clients: int
    calls: int
    is_kept: bool = True
    rate: float = 0


def _load(name: str, server: Server, message: bytes, asking: Asking) -> Load:
    clients, calls, is_kept, rate = asking
    load = run(server, message, clients, is_kept, max(calls, clients), rate)
    milliseconds = (load.quantile(0.5), load.quantile(0.99), load.server / load.calls, load.generator / load.calls)
    asked = f"{clients}, {rate:.0f} calls/s in all" if rate else str(clients)
    kind = "kept" if is_kept else "one per call"
    _print_row([name, asked, kind, f"{load.rate:.0f}", *(f"{seconds * 1000:.2f}" for seconds in milliseconds)])
    return load


def _simulate(local: Costs, openbao: Costs, nodes: int) -> None:
    print(f"\n{nodes:,} nodes begin to pull {_LAYERS} layers within {_SECONDS:.0f} s.\n")
    _print_row(_FLEET_COLUMNS)
    _print_row(["---"] * len(_FLEET_COLUMNS))
    for name, costs, is_once, is_cached, images in (
        ("local", local, True, True, 1),
        ("local", local, False, True, 1),
        ("openbao", openbao, True, True, 1),
        ("openbao", openbao, True, True, 100),
        ("openbao", openbao, False, True, 1),
        ("openbao, old packets", openbao, False, False, 1),
    ):
        for scenario, outcome in _enough(costs, nodes, is_once, is_cached, images):
            times = (outcome.quantile(0.5), outcome.quantile(0.99), outcome.end)
            failed = f" ({outcome.failed} nodes fail)" if outcome.failed else ""
            _print_row([
                name, "once" if is_once else "per layer", str(images), f"{scenario.replicas}{failed}",
                *(f"{seconds:.2f}" for seconds in times), str(outcome.service_calls), str(outcome.service_peak),
            ])  # fmt: skip


def _enough(
    costs: Costs, nodes: int, is_once: bool, is_cached: bool, images: int
) -> Iterator[tuple[Scenario, Outcome]]:
    """Find the least replicas with which no node fails; 2 at least, for one may be away."""
    for replicas in range(2, _MOST_REPLICAS + 1):
        scenario = Scenario(nodes, _LAYERS, _SECONDS, is_once, is_cached, images, replicas)
        outcome = simulate(scenario, costs)
        if not outcome.failed or replicas == _MOST_REPLICAS:
            yield scenario, outcome
            return


def _print_row(cells: Sequence[str]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
