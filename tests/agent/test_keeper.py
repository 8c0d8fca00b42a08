"""Keyproviders through the agent: made once for many layers, and else as without it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from decoder import provider
from tests.agent.resident import Agent, Place
from tests.layers import encrypted, private_options
from tests.processes import PROGRAM
from tests.provider.client_parts import NAME, PLAINTEXT, configuration, decrypt, serving, turn
from tests.provider.serving import write_key

LAYERS = 5
DECRYPTED = (0, PLAINTEXT, "")


class Server:
    """A gRPC keyprovider that notes where its calls come from."""

    def __init__(self) -> None:
        self.peers: list[str] = []
        self.fails = False

    def answer(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.peers.append(context.peer())
        if self.fails:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "not today")
        return turn(request, context)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def config(server: Server, tmp_path: Path) -> Iterator[str]:
    with serving(answer=server.answer) as running:
        yield configuration(tmp_path, {NAME: {"grpc": running.address}})


def test_one_connection_for_all_layers(server: Server, config: str, place: Place) -> None:
    with Agent(place):
        for _ in range(LAYERS):
            assert decrypt(config, program=place.client) == DECRYPTED
    assert (len(server.peers), len(set(server.peers)), place.fallbacks) == (LAYERS, 1, 0)


def test_each_environment_has_connections_of_its_own(server: Server, config: str, place: Place) -> None:
    with Agent(place):
        for number in range(LAYERS):  # more than there may be keepers
            environment = {"WHO": str(number), "STREAM_PROCESSOR_MEDIATYPE": "x"}
            assert decrypt(config, program=place.client, environment=environment) == DECRYPTED
            assert decrypt(config, program=place.client, environment={"WHO": str(number)}) == DECRYPTED
    assert LAYERS <= len(set(server.peers)) <= LAYERS + 1
    assert place.fallbacks == 0


def test_a_provider_that_fails(server: Server, config: str, place: Place) -> None:
    """The message is the program's own, and a failure is not remembered."""
    with Agent(place):
        assert decrypt(config, program=place.client) == DECRYPTED
        server.fails = True
        result = decrypt(config, program=place.client)
        assert result == decrypt(config, program=PROGRAM)
        assert result.status == 6
        assert "not today" in result.errors
        server.fails = False
        assert decrypt(config, program=place.client) == DECRYPTED
        assert place.fallbacks == 0


def test_a_provider_that_is_started_again(server: Server, place: Place, tmp_path: Path) -> None:
    address = f"unix://{place.directory}/provider"
    config = configuration(tmp_path, {NAME: {"grpc": address}})
    with Agent(place):
        for _ in range(2):
            with serving(address, answer=server.answer):
                assert decrypt(config, program=place.client) == DECRYPTED
    assert len(server.peers) == 2


def test_a_provider_of_our_own(place: Place, tmp_path: Path) -> None:
    key = write_key(tmp_path / "image.key")
    config = configuration(tmp_path, {NAME: {"native": "local", "key": str(key)}})
    wrapped = provider.create("local", {"key": str(key)}).wrap(private_options(), [])
    layer = encrypted(PLAINTEXT, {f"provider.{NAME}": [wrapped]})
    with Agent(place):
        for _ in range(2):
            assert decrypt(config, layer, program=place.client) == DECRYPTED
        key.unlink()
        result = decrypt(config, layer, program=place.client)
        assert result == decrypt(config, layer, program=PROGRAM)
        assert result.status == 6
        assert place.fallbacks == 0


def test_the_time_limit_is_the_providers(place: Place, tmp_path: Path) -> None:
    def sleep(request: bytes, context: grpc.ServicerContext) -> bytes:
        time.sleep(3)
        return turn(request, context)

    with serving(answer=sleep) as running, Agent(place):
        config = configuration(tmp_path, {NAME: {"grpc": running.address, "timeout": 1}})
        result = decrypt(config, program=place.client)
        assert result == decrypt(config, program=PROGRAM)
        assert "no answer within 1 seconds" in result.errors


@pytest.mark.parametrize(("arguments", "calls"), [([], 2), (["--keep-opened", "60"], 1)])
def test_opened_keys_are_used_again_if_that_is_asked_for(
    arguments: list[str], calls: int, server: Server, config: str, place: Place
) -> None:
    with Agent(place, *arguments):
        for _ in range(2):
            assert decrypt(config, program=place.client) == DECRYPTED
        assert len(server.peers) == calls
        other: dict[str, Any] = {NAME: [b"another parameter"]}
        assert decrypt(config, program=place.client, parameters=other) == DECRYPTED
        assert len(server.peers) == calls + 1


def test_opened_keys_are_forgotten(server: Server, config: str, place: Place) -> None:
    with Agent(place, "--keep-opened", "1"):
        assert decrypt(config, program=place.client) == DECRYPTED
        time.sleep(1.2)
        assert decrypt(config, program=place.client) == DECRYPTED
    assert len(server.peers) == 2


def test_what_belongs_to_no_keeper(place: Place, tmp_path: Path) -> None:
    """A malformed entry has its own message."""
    path = tmp_path / "conf"
    path.write_text(json.dumps({"key-providers": {NAME: {"native": "absent"}}}))
    with Agent(place):
        result = decrypt(str(path), program=place.client)
    assert result == decrypt(str(path), program=PROGRAM)
    assert result.status == 6
