"""Keyproviders through the agent: created once for many layers, and otherwise as without it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import grpc
import pytest

from decoder import provider
from decoder.formats import wire
from decoder.keywrap.keyprovider import KeyProvider
from decoder.layer.annotations import KEYS_PREFIX
from tests.support.keywrap.layers import Layer, encrypted, private_options
from tests.support.network import loopback
from tests.support.program.agent import NOTING, Agent, Place
from tests.support.program.processes import PROGRAM
from tests.support.provider.client_parts import NAME, PLAINTEXT, configuration, decrypt, serving, shell, turn
from tests.support.provider.serving import write_key
from tests.support.services import aws_server, gcp_server
from tests.support.services.transit import Transit

LAYERS = 5
LAYERS_OF_AN_IMAGE = 21
CONNECTING_SECONDS = 0.05
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


def test_connecting_is_paid_once_for_an_image(place: Place, tmp_path: Path) -> None:
    with serving() as running, slow_to_connect(running.address) as (address, connections), Agent(place):
        config = configuration(tmp_path, {NAME: {"grpc": address}})
        before = time.monotonic()
        assert decrypt(config, program=place.client) == DECRYPTED
        assert time.monotonic() - before > CONNECTING_SECONDS
        for _ in range(LAYERS_OF_AN_IMAGE - 1):
            assert decrypt(config, program=place.client) == DECRYPTED
    assert (len(running.messages), len(connections), place.fallbacks) == (LAYERS_OF_AN_IMAGE, 1, 0)


@contextmanager
def slow_to_connect(target: str) -> Iterator[tuple[str, list[socket.socket]]]:
    """Lead to a server, but let whoever connects wait first; give our address, and all connections that there were."""
    host, _, port = target.rpartition(":")
    connections: list[socket.socket] = []

    def lead(client: socket.socket) -> None:
        time.sleep(CONNECTING_SECONDS)
        with client, socket.create_connection((host, int(port))) as server, suppress(OSError):
            loopback.relay(client, server)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connections.append(listener.accept()[0])
                threading.Thread(target=lead, args=connections[-1:], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", connections
        listener.shutdown(socket.SHUT_RDWR)


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


@contextmanager
def running_aws(_: Path) -> Iterator[dict[str, object]]:
    """Run AWS KMS with a key, and give a provider's options."""
    with aws_server.running_moto() as endpoint:
        client = aws_server.kms_client(endpoint)
        key = client.create_key()["KeyMetadata"]["Arn"]
        client.close()
        yield {"endpoint": endpoint, "key": key}


@contextmanager
def running_gcp(directory: Path) -> Iterator[dict[str, object]]:
    """Run Cloud KMS, and give a provider's options."""
    with gcp_server.running_google(directory) as google:
        yield google.options(key=f"gcpkms://{gcp_server.KEY}")


@pytest.mark.parametrize(
    ("name", "library", "running"),
    [("awskms", "botocore.session", running_aws), ("gcpkms", "google.cloud.kms_v1", running_gcp)],
)
def test_libraries_are_imported_once_for_an_image(
    name: str,
    library: str,
    running: Callable[[Path], AbstractContextManager[dict[str, object]]],
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those of key services are the ones that take long; another environment has to have them once more."""
    aws_server.use_test_account(monkeypatch, tmp_path)
    record = tmp_path / "imports"
    noting = NOTING.format(module=library, record=str(record))
    with running(tmp_path) as options, Agent(place, before=noting):
        wrapped = provider.create(name, options).wrap(private_options(), [])
        layer = encrypted(PLAINTEXT, {f"provider.{NAME}": [wrapped]})
        config = configuration(tmp_path, {NAME: {"native": name, **options}})
        for _ in range(LAYERS_OF_AN_IMAGE):
            assert decrypt(config, layer, program=place.client) == DECRYPTED
        assert record.read_text() == f"{library}\n"
        assert decrypt(config, layer, program=place.client, environment={"WHO": "another"}) == DECRYPTED
        assert record.read_text() == f"{library}\n" * 2
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


@pytest.fixture
def transit() -> Iterator[Transit]:
    with Transit() as running:
        yield running


def image_of(transit: Transit, directory: Path) -> tuple[str, list[Layer]]:
    """Configure our OpenBao, and encrypt the layers of an image, which costs it one call."""
    (directory / "token").write_text("token-of-the-test")
    (directory / "token").chmod(0o600)
    options = {"address": transit.url, "key": "layers", "token-file": str(directory / "token")}
    config = configuration(directory, {NAME: {"native": "openbao", **options}})
    keys = KeyProvider(NAME, config)
    wrapped = [keys.wrap(private_options(), []) for _ in range(LAYERS_OF_AN_IMAGE)]
    assert transit.calls == ["encrypt"]
    transit.asked.clear()
    return config, [encrypted(PLAINTEXT, {f"provider.{NAME}": [each]}) for each in wrapped]


def test_an_image_costs_one_call_of_the_key_service(transit: Transit, place: Place, tmp_path: Path) -> None:
    config, layers = image_of(transit, tmp_path)
    with Agent(place), ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda layer: decrypt(config, layer, program=place.client), layers):
            assert result == DECRYPTED
        assert transit.calls == ["decrypt"]
        assert place.fallbacks == 0


@pytest.mark.parametrize(("seconds", "pause"), [("0", 0), ("1", 1.2)])
def test_opened_keys_are_kept_no_longer_than_asked_for(
    transit: Transit, place: Place, tmp_path: Path, seconds: str, pause: float
) -> None:
    config, layers = image_of(transit, tmp_path)
    with Agent(place, kek=float(seconds)):
        assert decrypt(config, layers[0], program=place.client) == DECRYPTED
        time.sleep(pause)
        assert decrypt(config, layers[1], program=place.client) == DECRYPTED
    assert transit.calls == ["decrypt"] * 2


def test_what_was_opened_before_is_asked_first(transit: Transit, place: Place, tmp_path: Path) -> None:
    """The key of the image is kept after its first layer; until then annotations are tried in the order of names."""
    _, layers = image_of(transit, tmp_path)
    first, second = (
        encrypted(PLAINTEXT, {"provider.a": [b"1"], f"provider.{NAME}": [wrapped_of(layer)]}) for layer in layers[:2]
    )
    openbao = {"native": "openbao", "address": transit.url, "token-file": str(tmp_path / "token")}
    config = configuration(tmp_path, {"a": shell(f"echo asked >> {tmp_path}/a; exit 1"), NAME: openbao})
    with Agent(place):
        for layer, asked in ((first, 1), (second, 1)):
            assert decrypt(config, layer, program=place.client) == DECRYPTED
            assert len((tmp_path / "a").read_text().splitlines()) == asked
    assert transit.calls == ["decrypt"]
    assert place.fallbacks == 0


def wrapped_of(layer: Layer) -> bytes:
    return wire.decode_base64(layer.descriptor["annotations"][f"{KEYS_PREFIX}provider.{NAME}"])


def test_what_belongs_to_no_keeper(place: Place, tmp_path: Path) -> None:
    """A malformed entry has its own message."""
    path = tmp_path / "conf"
    path.write_text(json.dumps({"key-providers": {NAME: {"native": "absent"}}}))
    with Agent(place):
        result = decrypt(str(path), program=place.client)
    assert result == decrypt(str(path), program=PROGRAM)
    assert result.status == 6
