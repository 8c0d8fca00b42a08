"""What the real peers of Confidential Containers answered, replayed; and that the tests' own peers answer the same."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
from google.protobuf.wrappers_pb2 import BytesValue
from jwcrypto.jwk import JWK

from decoder.keywrap.kid import ResourceId, parse_kid
from decoder.provider.client import grpc as grpcclient
from decoder.provider.client import protocol
from decoder.provider.client.config import GrpcProvider
from decoder.provider.client.grpc import Question
from decoder.provider.errors import ProviderError
from decoder.provider.services.coco import cdhrest, cdhunwrap
from decoder.provider.services.coco.kbs import source as kbs
from decoder.provider.services.coco.kbs.aatoken import fetch_token
from decoder.provider.services.coco.kbs.register import Registrar
from decoder.provider.services.coco.packet import open_with
from tests.support.coco import recorded
from tests.support.coco.cdh_server import Hub
from tests.support.coco.kbs_server import KbsServer
from tests.support.coco.packets import broker_packet
from tests.support.coco.register import ADMIN, pkcs8
from tests.support.keywrap.vectors import COCO_PACKETS
from tests.support.network.ttrpc_server import MESSAGES, RefusedError
from tests.support.program.environment import forget
from tests.support.provider.serving import write_key

if TYPE_CHECKING:
    from decoder.provider.services.coco.cdhunwrap import CdhUnwrap

SECONDS = 20.0
KBS = recorded.read("kbs")
PROVIDER = recorded.read("coco_keyprovider")
KID = parse_kid("kbs:///default/image_key/nginx")
RESOURCE = b64decode(KBS["resource"])
OPTIONS = COCO_PACKETS["options"].encode()
SAMPLE_KEY = b64decode("2Zt3BbC6ehaClbOjNnJwsN2bNxv1FMqLm6fwozcR2uo=")  # docs/formats.md §8


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch)


# -- the key broker


@pytest.fixture
def tee_key(monkeypatch: pytest.MonkeyPatch) -> JWK:
    """The key of the guest that was recorded, which a new handshake makes again."""
    key = JWK(**KBS["tee_key"])
    monkeypatch.setattr(JWK, "generate", lambda **_: key)
    return key


def ask(exchanges: list[Any], options: dict[str, str], resource: ResourceId = KID) -> bytes:
    with recorded.Broker(exchanges) as broker:
        data = kbs.create(broker.url, options).key(resource, SECONDS)
        assert not broker.left
        return data


@pytest.mark.usefixtures("tee_key")
def test_the_handshake_with_the_sample_attester() -> None:
    exchanges = KBS["exchanges"]["sample-handshake-and-resource"]
    with recorded.Broker(exchanges) as broker:
        assert kbs.create(broker.url, {"tee": "sample"}).key(KID, SECONDS) == RESOURCE
        attested = json.loads(broker.asked[1].body)
        assert broker.asked[1].headers["cookie"] == exchanges[1]["request"]["headers"]["cookie"]
    # The nonce and the key are those of the recording, and so is what is hashed over them.
    assert attested == json.loads(recorded.content(exchanges[1]["request"]["body"]))


def test_a_token_and_its_key(tee_key: JWK, tmp_path: Path) -> None:
    (exchange,) = KBS["exchanges"]["passport-resource"]
    token = exchange["request"]["headers"]["authorization"].removeprefix("Bearer ")
    (tmp_path / "token").write_text(token)
    key_file = write_key(tmp_path / "tee.jwk", str(tee_key.export()).encode())
    options = {"kbs-token": str(tmp_path / "token"), "tee-key": str(key_file)}
    assert ask([exchange], options) == RESOURCE


@pytest.mark.usefixtures("tee_key")
@pytest.mark.parametrize(
    ("name", "kid", "said"),
    [
        ("policy-default-denies-sample", KID, "its resource policy denies this resource to this attestation"),
        ("policy-denies", KID, "its resource policy denies this resource to this attestation"),
        ("resource-absent", parse_kid("kbs:///default/image_key/absent"), "register the key"),
    ],
)
def test_what_the_broker_refuses(name: str, kid: ResourceId, said: str) -> None:
    with pytest.raises(ProviderError, match=said):
        ask(KBS["exchanges"][name], {"tee": "sample"}, kid)


@pytest.mark.parametrize("name", [name for name in KBS["exchanges"] if name.startswith("register-")])
def test_registering_a_key(name: str, tmp_path: Path) -> None:
    (exchange,) = KBS["exchanges"][name]
    options = {}
    if name not in ("register-open", "register-no-token"):
        options = {"kbs-auth-key": str(write_key(tmp_path / "admin.pem", pkcs8(ADMIN)))}
    with recorded.Broker([exchange]) as broker:
        registrar = Registrar({"kbs": broker.url, **options})
        if exchange["response"]["status"] == 200:
            assert registrar.register(KID, RESOURCE) is False  # there is no way to read it back
        else:
            with pytest.raises(ProviderError, match=r"iss=TrusteeInDocker\), aud and role"):
                registrar.register(KID, RESOURCE)
        (asked,) = broker.asked
    assert asked.body == RESOURCE
    assert ("authorization" in asked.headers) == ("authorization" in exchange["request"]["headers"])


@pytest.mark.parametrize(
    "name", ["no-token", "token-refused", "plugin-unknown", "auth-version", "register-open", "register-no-token"]
)
def test_the_broker_of_the_tests_answers_as_the_real_one(name: str) -> None:
    (exchange,) = KBS["exchanges"][name]
    request, response = exchange["request"], exchange["response"]
    with KbsServer() as server:
        server.is_open = name == "register-open"
        answered = requests.request(
            request["method"],
            server.url + request["path"],
            headers=request["headers"],
            data=recorded.content(request["body"]),
            timeout=SECONDS,
        )
    assert (answered.status_code, answered.content) == (response["status"], recorded.content(response["body"]).strip())


@pytest.mark.usefixtures("tee_key")
@pytest.mark.parametrize("name", ["policy-denies", "resource-absent"])
def test_the_broker_of_the_tests_refuses_as_the_real_one(name: str) -> None:
    said = []
    kid = parse_kid("kbs:///default/image_key/absent") if name == "resource-absent" else KID
    with KbsServer() as own, recorded.Broker(KBS["exchanges"][name]) as real:
        own.denied.add(KID.path)
        for server in (own, real):
            with pytest.raises(ProviderError) as caught:
                kbs.create(server.url, {"tee": "sample"}).key(kid, SECONDS)
            said.append(str(caught.value))
    assert said[0] == said[1]


# -- coco_keyprovider


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("gcm", b64decode(PROVIDER["key"])),
        ("ctr", b64decode(PROVIDER["key"])),  # it was asked for A256CTR, which this version overlooks
        ("sample", SAMPLE_KEY),
        ("default-kid", b64decode(PROVIDER["key"])),
    ],
    ids=["gcm", "ctr", "sample", "default-kid"],
)
def test_packets_of_coco_keyprovider(name: str, key: bytes) -> None:
    exchange = PROVIDER["exchanges"][name]
    request = BytesValue.FromString(recorded.content(exchange["request"])).value
    with recorded.over_grpc(exchange) as (address, came):
        reply = grpcclient.ask(GrpcProvider(address), Question(grpcclient.method_of("keywrap"), request), SECONDS)
        assert came == [recorded.content(exchange["request"])]
    packet = broker_packet(protocol.parse_reply("keywrap", reply))
    assert packet.wrap_type == "A256GCM"
    assert open_with(key, packet) == OPTIONS


@pytest.mark.parametrize(("name", "said"), [("no-key-file", "read Key file failed"), ("unwrap", "unimplemented")])
def test_what_coco_keyprovider_refuses(name: str, said: str) -> None:
    exchange = PROVIDER["exchanges"][name]
    request = BytesValue.FromString(recorded.content(exchange["request"])).value
    operation: protocol.Operation = "keyunwrap" if name == "unwrap" else "keywrap"
    with recorded.over_grpc(exchange) as (address, _), pytest.raises(ProviderError, match=said) as caught:
        grpcclient.ask(GrpcProvider(address), Question(grpcclient.method_of(operation), request), SECONDS)
    assert "\n" not in str(caught.value)


# -- the data hub and the attestation agent


HUB = recorded.read("hub")
HUB_OPTIONS = HUB["options"].encode()
LOOK = "look at the log of the guest's data hub"
REFUSED = ["key-absent", "another-key", "bare-kid", "no-packet"]
UNWRAPPING = pytest.mark.parametrize("kind", ["grpc", "ttrpc"])


@contextmanager
def hub(kind: str, name: str, directory: Path) -> Iterator[tuple[CdhUnwrap, list[bytes]]]:
    """Replay one exchange; yields the source that asks, and the messages that came once it has asked."""
    exchange = HUB[kind][name]
    if kind == "grpc":
        with recorded.over_grpc(exchange) as (address, came):
            yield cdhunwrap.create_grpc(address, {}), came
    else:
        messages: list[bytes] = []
        with recorded.over_ttrpc(directory / "hub.sock", exchange) as requests_:
            yield cdhunwrap.create_ttrpc(str(directory / "hub.sock"), {}), messages
            assert [f"{request.service}/{request.method}" for request in requests_] == [exchange["method"]]
            messages += [request.payload for request in requests_]


@UNWRAPPING
@pytest.mark.parametrize("name", ["opens", "opens-v2"])
def test_packets_that_the_hub_unwraps(kind: str, name: str, tmp_path: Path) -> None:
    exchange = HUB[kind][name]
    with hub(kind, name, tmp_path) as (source, came):
        assert source.unwrap(b64decode(exchange["packet"]), SECONDS) == HUB_OPTIONS
    sent = recorded.content(exchange["request"]) if kind == "grpc" else b64decode(exchange["request"])
    assert _annotation(came[0])["wrapped_data"] == _annotation(sent)["wrapped_data"]


def _annotation(message: bytes) -> Any:
    request = json.loads(BytesValue.FromString(message).value)
    return json.loads(b64decode(request["keyunwrapparams"]["annotation"]))


@UNWRAPPING
@pytest.mark.parametrize("name", ["key-absent", "another-key"])
def test_what_the_hub_refuses(kind: str, name: str, tmp_path: Path) -> None:
    packet = b64decode(HUB[kind][name]["packet"])
    with (
        hub(kind, name, tmp_path) as (source, _),
        pytest.raises(ProviderError, match=LOOK),
    ):
        source.unwrap(packet, SECONDS)


@UNWRAPPING
@pytest.mark.parametrize("name", [*REFUSED, "opens", "opens-v2"])
def test_the_hub_of_the_tests_answers_as_the_real_one(kind: str, name: str) -> None:
    exchange = HUB[kind][name]
    own = Hub({KID.path: b64decode(HUB["resource"])})
    message = recorded.content(exchange["request"]) if kind == "grpc" else b64decode(exchange["request"])
    response = MESSAGES["Response"]()
    if kind == "ttrpc":
        response.ParseFromString(b64decode(exchange["response"]))
    if name in REFUSED:
        with pytest.raises(RefusedError) as caught:
            own.unwrap(message)
        said = exchange["response"]["details"] if kind == "grpc" else response.status.message
        assert str(caught.value) == said
    else:
        reply = recorded.content(exchange["response"]["message"]) if kind == "grpc" else response.payload
        answered, really = (BytesValue.FromString(each).value for each in (own.unwrap(message), reply))
        assert json.loads(answered) == json.loads(really)


def test_resources_over_rest() -> None:
    with recorded.Broker([HUB["rest"]["resource"]]) as server:
        assert cdhrest.create(server.url, {}).key(KID, SECONDS) == b64decode(HUB["resource"])
    absent = parse_kid("kbs:///default/image_key/absent")
    with (
        recorded.Broker([HUB["rest"]["resource-absent"]]) as server,
        pytest.raises(ProviderError, match=f"status 500: 'ttrpc request error'.*{LOOK}"),
    ):
        cdhrest.create(server.url, {}).key(absent, SECONDS)


def test_tokens_of_the_attestation_agent() -> None:
    with recorded.Broker([HUB["agent"]["token"]]) as server:
        token, tee_key = fetch_token(server.url, SECONDS)
    assert token.count(".") == 2
    assert tee_key.startswith(b"-----BEGIN PRIVATE KEY-----\n")


@pytest.mark.parametrize("name", ["resource", "resource-absent", "path-invalid"])
def test_the_rest_interface_of_the_tests_answers_as_the_real_one(name: str) -> None:
    exchange = HUB["rest"][name]
    with Hub({KID.path: b64decode(HUB["resource"])}).rest() as server:
        answered = requests.get(server.url + exchange["request"]["path"], timeout=SECONDS)
    response = exchange["response"]
    assert (answered.status_code, answered.content) == (response["status"], recorded.content(response["body"]))
