"""The load generator and the simulation of fleets: they count what they say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.fleet.load import run
from bench.fleet.server import serving
from bench.fleet.simulation import Costs, Scenario, simulate
from bench.programs import RunError
from decoder import limits
from decoder.provider import create
from decoder.provider.client import protocol

_COSTS = Costs(call=0.0004, connection=0.001, asking=0.002, service=0.003, service_rate=300)
_FLEET = Scenario(nodes=200, layers=21, seconds=10, is_once=True, is_cached=True, images=3, replicas=2)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "image.key"
    path.touch(0o600)
    path.write_bytes(os.urandom(32))
    return path


def unwrap_of(key: Path) -> bytes:
    annotation = create("local", {"key": str(key)}).wrap(b"options", [])
    return protocol.build_message(protocol.build_request("keyunwrap", annotation, "bench", []))


@pytest.mark.parametrize("is_kept", [True, False])
def test_every_call_is_counted_and_paid_for(is_kept: bool, key: Path, tmp_path: Path) -> None:
    with serving(tmp_path, 2, ["--provider", "local", "--key", str(key)]) as server:
        assert len(server.processes) == 2
        load = run(server, unwrap_of(key), clients=4, is_kept=is_kept, calls=400)
    assert (load.calls, len(load.times)) == (400, 400)
    assert load.times == sorted(load.times)
    assert 0 < load.quantile(0.5) <= load.quantile(0.99) <= load.wall
    assert load.server > 0
    assert load.generator > 0


def test_a_bounded_rate_is_not_exceeded(key: Path, tmp_path: Path) -> None:
    with serving(tmp_path, 1, ["--provider", "local", "--key", str(key)]) as server:
        load = run(server, unwrap_of(key), clients=2, is_kept=True, calls=20, rate=40)
    assert load.rate <= 45


def test_a_call_that_fails_gives_no_figure(key: Path, tmp_path: Path) -> None:
    message = unwrap_of(key)
    key.write_bytes(os.urandom(32))
    with (
        serving(tmp_path, 1, ["--provider", "local", "--key", str(key)]) as server,
        pytest.raises(RunError, match="a call failed"),
    ):
        run(server, message, clients=1, is_kept=True, calls=1)


def test_nodes_ask_once_and_each_server_asks_the_key_service_once_for_an_image() -> None:
    outcome = simulate(_FLEET, _COSTS)
    assert (outcome.failed, len(outcome.times)) == (0, 200)
    assert outcome.service_calls == 3 * 2
    assert outcome == simulate(_FLEET, _COSTS)


def test_without_kept_keys_the_key_service_gets_every_layer() -> None:
    outcome = simulate(_FLEET._replace(is_once=False, is_cached=False), _COSTS)
    assert (outcome.failed, outcome.service_calls) == (0, 200 * 21)
    assert outcome.service_peak <= 302  # what it answers in a second


def test_too_few_servers_make_nodes_wait_and_then_fail() -> None:
    slow = _COSTS._replace(call=0.2)
    few = simulate(_FLEET._replace(nodes=2000, replicas=1), slow)
    assert few.failed
    assert few.quantile(0.99) > limits.PROVIDER_SECONDS / 2
    many = simulate(_FLEET._replace(nodes=2000, replicas=40), slow)
    assert not many.failed
    assert many.end < few.end
