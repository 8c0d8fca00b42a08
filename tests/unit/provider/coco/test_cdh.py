"""Keys from a Confidential Data Hub, over REST, gRPC and ttrpc."""

from __future__ import annotations

import gzip
import json
import socket
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from decoder import limits
from decoder.errors import UsageError
from decoder.keywrap.kid import ResourceId
from decoder.provider.errors import ProviderError
from decoder.provider.services.coco.packet import build_packet, parse_packet, seal
from decoder.provider.services.coco.sources import parse_sources, unwrap_first
from tests.support.coco.cdh_server import Hub
from tests.support.keys import independent
from tests.support.keywrap.layers import encrypted, private_options
from tests.support.network.loopback import Answer, Authority, Loopback
from tests.support.network.ttrpc_server import HEADER
from tests.support.program.processes import PROGRAM, Result, payload_bytes, run_decoder, without_modules
from tests.support.provider.client_parts import PLAINTEXT, configuration

NAME = "attestation-agent"
KEY = bytes(range(32))
NGINX = ResourceId("default/image_key/nginx")
OPTIONS = private_options()
SECONDS = 1.0  # for tests in which no answer comes
LARGE_BYTES = 100 * 1024 * 1024

EACH = pytest.mark.parametrize("kind", ["cdh-rest", "cdh-grpc", "cdh-ttrpc"])
UNWRAPPING = pytest.mark.parametrize("kind", ["cdh-grpc", "cdh-ttrpc"])


@pytest.fixture(autouse=True)
def bounded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test waits long, and none sees a proxy of whoever runs it."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(limits, "COCO_ATTESTATION_SECONDS", 30.0)
    started = time.monotonic()
    yield
    assert time.monotonic() - started < 40  # and not COCO_ATTESTATION_SECONDS


@pytest.fixture
def shortly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait `SECONDS` for an answer, not longer."""
    monkeypatch.setattr(limits, "COCO_ATTESTATION_SECONDS", SECONDS)


@pytest.fixture
def hub() -> Hub:
    return Hub({NGINX.path: KEY, "default/image_key/other": bytes(32), "a/b/short": bytes(31)})


@contextmanager
def serving(hub: Hub, kind: str, directory: Path) -> Iterator[str]:
    """Serve in one way, and yield the source that uses it."""
    if kind == "cdh-rest":
        with hub.rest() as server:
            yield f"{kind}:{server.url}"
    elif kind == "cdh-grpc":
        with hub.grpc() as address:
            yield f"{kind}:{address}"
    else:
        with hub.ttrpc(directory / "cdh.sock"):
            yield f"{kind}:{directory}/cdh.sock"


def packet(kid: str = str(NGINX), **members: Any) -> bytes:
    """Write a packet with code that is not the project's."""
    iv = bytes(range(12))
    data = b64encode(independent.gcm_seal(KEY, iv, OPTIONS)).decode()
    return json.dumps(
        {"kid": kid, "wrapped_data": data, "iv": b64encode(iv).decode(), "wrap_type": "A256GCM", **members}
    ).encode()


V2: dict[str, Any] = {"version": "0.1.0", "provider": "kbs", "provider_settings": {}, "annotations": {}}
CTR = build_packet(seal(NGINX, KEY, OPTIONS, "A256CTR"))
PACKETS = {
    "GCM": packet(),
    "CTR": CTR,
    "v2": packet(**V2),
    "a host": packet("kbs://broker.example:8080/default/image_key/nginx"),
    "a plugin": packet("kbs+resource:///default/image_key/nginx"),
    "a bare id": packet("/default/image_key/nginx"),
    "an old name": packet(wrap_type="aes_256_gcm"),
    "integers": packet(iv=list(range(12))),
}


def decrypt(
    directory: Path,
    sources: list[str],
    annotation: bytes = PACKETS["GCM"],
    entry: Any = None,
    program: str = PROGRAM,
    **variables: str,
) -> Result:
    """Run the installed program on a layer."""
    layer = encrypted(PLAINTEXT, {f"provider.{NAME}": [annotation]})
    config_file = configuration(directory, {NAME: entry or {"native": NAME, "source": sources, "allow-a256ctr": True}})
    environment = {"OCICRYPT_KEYPROVIDER_CONFIG": config_file, **variables}
    return run_decoder(payload_bytes(layer.descriptor, {}), layer.ciphertext, program=program, environment=environment)


def cause(source: str, annotation: bytes = PACKETS["GCM"]) -> str:
    """Tell why a source failed; the message names it and the key, and holds neither the key nor the options."""
    with pytest.raises(ProviderError) as caught:
        unwrap_first(parse_sources({"source": source}), annotation, parse_packet(annotation))
    text = str(caught.value)
    start = f"source {source}, kid {parse_packet(annotation).kid}: "
    assert text.startswith(start)
    assert len(text) < 2 * limits.PROVIDER_ERROR_BYTES
    for secret in (KEY, OPTIONS[:40]):
        assert secret.hex() not in text
        assert b64encode(secret).decode()[:40] not in text
        assert str(secret)[2:-1] not in text
    return text.removeprefix(start)


@EACH
@pytest.mark.parametrize("annotation", PACKETS.values(), ids=PACKETS.keys())
def test_the_installed_program_decrypts(kind: str, annotation: bytes, hub: Hub, tmp_path: Path) -> None:
    with serving(hub, kind, tmp_path) as source:
        assert decrypt(tmp_path, [source], annotation) == (0, PLAINTEXT, "")


def test_the_request_is_the_documented_one(hub: Hub, tmp_path: Path) -> None:
    with hub.ttrpc(tmp_path / "socket") as requests:
        assert decrypt(tmp_path, [f"cdh-ttrpc:unix://{tmp_path}/socket"], packet(**V2)).status == 0
    (request,) = requests
    assert (request.service, request.method) == ("keyprovider.KeyProviderService", "UnWrapKey")
    assert json.loads(request.payload[request.payload.index(b"{") :]) == {
        "op": "keyunwrap",
        "keywrapparams": {"ec": None, "optsdata": None},
        "keyunwrapparams": {"dc": {"Parameters": {}}, "annotation": b64encode(packet(**V2)).decode()},
    }


@UNWRAPPING
def test_base64_in_replies(kind: str, hub: Hub, tmp_path: Path) -> None:
    hub.with_base64 = True
    with serving(hub, kind, tmp_path) as source:
        assert decrypt(tmp_path, [source]) == (0, PLAINTEXT, "")


@UNWRAPPING
def test_a_hub_as_a_keyprovider(kind: str, hub: Hub, tmp_path: Path) -> None:
    """Without a provider of ours: named by `grpc` or `ttrpc` in the configuration."""
    with serving(hub, kind, tmp_path) as source:
        transport, _, address = source.removeprefix("cdh-").partition(":")
        result = decrypt(tmp_path, [], entry={transport: address})
    assert result == (0, PLAINTEXT, "")


@EACH
def test_the_next_source_is_asked(kind: str, hub: Hub, tmp_path: Path) -> None:
    with serving(hub, kind, tmp_path) as source:
        nowhere = ["cdh-rest:http://127.0.0.1:1", "cdh-grpc:127.0.0.1:1", f"cdh-ttrpc:{tmp_path}/none"]
        assert decrypt(tmp_path, [*nowhere, source]) == (0, PLAINTEXT, "")


@EACH
def test_the_hub_has_no_such_key(kind: str, hub: Hub, tmp_path: Path) -> None:
    with serving(hub, kind, tmp_path) as source:
        result = decrypt(tmp_path, [source], packet("kbs:///default/image_key/missing"))
        assert (result.status, result.plaintext) == (6, b"")
        assert f"source {source}, kid kbs:///default/image_key/missing: it answered " in result.errors
        assert len(result.errors.splitlines()) == 2
        other = packet("kbs:///default/image_key/other")
        reason = cause(source, other)
        assert reason in (
            "the packet was not wrapped with this key, or was changed",
            "it answered INTERNAL: '[CDH] [ERROR]: Decrypt Image (UnwrapKey) failed' (look at the log of the guest's "
            "data hub: an absent key and a denied one get the same answer)",
        )


def test_nobody_is_there(tmp_path: Path) -> None:
    sources = ["cdh-rest:http://127.0.0.1:1", "cdh-grpc:127.0.0.1:1", f"cdh-ttrpc:{tmp_path}/none"]
    result = decrypt(tmp_path, sources)
    assert (result.status, result.plaintext) == (6, b"")
    assert f"source {sources[0]}, kid {NGINX}: 127.0.0.1:1 cannot be reached: Connection refused" in result.errors
    assert f"source {sources[1]}, kid {NGINX}: it cannot be reached: " in result.errors
    assert f"source {sources[2]}, kid {NGINX}: it cannot be reached: No such file or directory" in result.errors


@EACH
@pytest.mark.usefixtures("shortly")
def test_a_socket_that_says_nothing(kind: str, tmp_path: Path) -> None:
    family = socket.AF_UNIX if kind == "cdh-ttrpc" else socket.AF_INET
    with socket.socket(family) as listener:
        listener.bind(str(tmp_path / "socket") if kind == "cdh-ttrpc" else ("127.0.0.1", 0))
        listener.listen()
        where = str(tmp_path / "socket") if kind == "cdh-ttrpc" else f"127.0.0.1:{listener.getsockname()[1]}"
        reason = cause(f"{kind}:{'http://' if kind == 'cdh-rest' else ''}{where}")
    assert reason == f"no answer within {SECONDS:g} seconds" or reason.endswith(" did not answer in time")


REPLIES: dict[str, tuple[bytes, str]] = {
    "garbage": (b"garbage", "its reply cannot be read: not JSON"),
    "nothing": (b"", "its reply cannot be read: not JSON"),
    "no result": (b"{}", "its reply cannot be read: it has no optsdata"),
    "the other result": (b'{"keywrapresults":{"annotation":[1]}}', "its reply cannot be read: it has no optsdata"),
    "no bytes": (b'{"keyunwrapresults":{"optsdata":[256]}}', "its reply cannot be read: an array with something other"),
    "no base64": (b'{"keyunwrapresults":{"optsdata":"?"}}', "its reply cannot be read: not base64"),
    "no options": (b'{"keyunwrapresults":{"optsdata":[1,2]}}', "it unwrapped the packet to malformed private options"),
}


@UNWRAPPING
@pytest.mark.parametrize(("answer", "text"), REPLIES.values(), ids=REPLIES.keys())
def test_replies_that_are_none(kind: str, answer: bytes, text: str, hub: Hub, tmp_path: Path) -> None:
    hub.answer = lambda _: answer
    with serving(hub, kind, tmp_path) as source:
        assert cause(source).startswith(text)


@UNWRAPPING
def test_a_reply_that_is_too_large(kind: str, hub: Hub, tmp_path: Path) -> None:
    hub.answer = lambda _: bytes(limits.TTRPC_MESSAGE_BYTES)
    with serving(hub, kind, tmp_path) as source:
        assert "is too large" in cause(source)


def test_frames_that_are_none(hub: Hub, tmp_path: Path) -> None:
    frames: list[tuple[Callable[[bytes], bytes | None], str]] = [
        (lambda _: HEADER.pack(2**32 - 1, 1, 2, 0), "a message of 4294967295 bytes is too large"),
        (lambda ours: ours[:-7], "it ended the connection before its reply was complete"),
        (lambda ours: HEADER.pack(len(ours) - 10, 3, 2, 0) + ours[10:], "it ended the connection"),
        (lambda _: b"garbage" * 3, "a message of 1734439522 bytes is too large"),
    ]
    for mangle, text in frames:
        with hub.ttrpc(tmp_path / "socket", mangle):
            assert cause(f"cdh-ttrpc:{tmp_path}/socket").startswith(text)


@pytest.mark.usefixtures("shortly")
def test_no_frame(hub: Hub, tmp_path: Path) -> None:
    with hub.ttrpc(tmp_path / "socket", lambda _: None):
        assert cause(f"cdh-ttrpc:{tmp_path}/socket") == f"no answer within {SECONDS:g} seconds"


# REST


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (Answer(200, bytes(31)), "it has 31 bytes, not the 32 of a key"),
        (Answer(200, bytes(33)), "it has 33 bytes, not the 32 of a key"),
        (Answer(200), "it has 0 bytes, not the 32 of a key"),
        (Answer(200, b64encode(KEY)), "it has 44 bytes, not the 32 of a key"),
        (Answer(200, bytes(4097)), "the resource is longer than 4096 bytes"),
        (Answer(200, bytes(LARGE_BYTES)), "the reply of 127.0.0.1:PORT is longer than 1048576 bytes"),
        (Answer(200, KEY, {"Content-Encoding": "gzip"}), "127.0.0.1:PORT does not speak HTTP"),
        (Answer(500, b"no\x1b[1m\nkey"), r"it answered with status 500: 'no\x1b[1m\nkey'"),
        (Answer(500, b"\xff" * 100_000), "it answered with status 500: "),
        (Answer(404), "it answered with status 404: ''"),
        (Answer(204), "it answered with status 204: ''"),
    ],
)
def test_rest_answers(answer: Answer, text: str) -> None:
    with Loopback(lambda _: answer) as server:
        assert text.replace("PORT", str(server.port)) in cause(f"cdh-rest:{server.url}")
        assert {asked.path for asked in server.asked} == {"/cdh/resource/default/image_key/nginx"}


def test_a_rest_answer_that_is_large_once_unpacked() -> None:
    packed = Answer(200, gzip.compress(bytes(LARGE_BYTES), 1), {"Content-Encoding": "gzip"})
    with Loopback(lambda _: packed) as server:
        text = f"the reply of 127.0.0.1:{server.port} is longer than 1048576 bytes"
        assert text in cause(f"cdh-rest:{server.url}")


@pytest.mark.usefixtures("shortly")
@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (Answer(200, KEY, drip=0.5), "127.0.0.1:PORT did not answer in time"),
        (Answer(503), "127.0.0.1:PORT is too busy (HTTP 503)"),
        (None, "did not answer in time"),
    ],
)
def test_rest_without_an_answer_in_time(answer: Answer | None, text: str) -> None:
    with Loopback(lambda _: answer) as server:
        reason = cause(f"cdh-rest:{server.url}")
        assert text.replace("PORT", str(server.port)) in reason or reason == f"no answer within {SECONDS:g} seconds"
        assert {asked.path for asked in server.asked} == {"/cdh/resource/default/image_key/nginx"}


def test_rest_redirects_are_not_followed(hub: Hub) -> None:
    with hub.rest() as other:
        location = f"http://localhost:{other.port}/cdh/resource/{NGINX.path}"
        with Loopback(lambda _: Answer(302, b"", {"Location": location})) as server:
            text = f"127.0.0.1:{server.port} redirects to 'localhost:{other.port}', which is not followed"
            assert cause(f"cdh-rest:{server.url}") == text
        assert other.asked == []


def test_rest_asks_for_nothing_but_resources(hub: Hub) -> None:
    with hub.rest() as server:
        for kid in ("kbs+other:///default/image_key/nginx", "kbs:///default/image_key/nginx?version=2"):
            assert "it only has resources of the plugin resource" in cause(f"cdh-rest:{server.url}", packet(kid))
        assert server.asked == []


def test_no_proxy_is_used(hub: Hub, tmp_path: Path) -> None:
    nowhere: dict[str, Any] = dict.fromkeys(
        ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy"), "http://127.0.0.1:1"
    )
    for kind in ("cdh-rest", "cdh-grpc"):
        with serving(hub, kind, tmp_path) as source:
            assert decrypt(tmp_path, [source], **nowhere) == (0, PLAINTEXT, "")


def test_rest_over_tls(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path)
    with Loopback(hub.get, authority.server_context("127.0.0.1")) as server:
        assert "the certificate of 127.0.0.1" in cause(f"cdh-rest:{server.url}")
        result = decrypt(tmp_path, [f"cdh-rest:{server.url}"], REQUESTS_CA_BUNDLE=str(authority.file))
        assert result == (0, PLAINTEXT, "")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.file))
    with Loopback(hub.get, authority.server_context("other.example")) as server:
        assert "the certificate of 127.0.0.1" in cause(f"cdh-rest:{server.url}")
        assert server.asked == []


# what they are created from


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("cdh-rest:127.0.0.1:8006", "is not https://HOST:PORT"),
        ("cdh-rest:ftp://127.0.0.1", "is not https://HOST:PORT"),
        ("cdh-rest:http://127.0.0.1:port", "is not https://HOST:PORT"),
        ("cdh-rest:http://me:secret@127.0.0.1", "is not https://HOST:PORT"),
        ("cdh-rest:http://127.0.0.1?x", "is not https://HOST:PORT"),
        ("cdh-rest:http://[::1", "is not https://HOST:PORT"),
        ("cdh-rest:http://127.0.0.1/ x", "characters that a URL cannot have"),
        ("cdh-rest:http://hub.example:8006", "must begin with https"),
        ("cdh-rest:http://127.0.0.1.example", "must begin with https"),
        ("cdh-rest:http://0.0.0.0:8006", "must begin with https"),
        ("cdh-grpc:127.0.0.1", "is not HOST:PORT on the loopback interface"),
        ("cdh-grpc:hub.example:50000", "is not HOST:PORT on the loopback interface"),
        ("cdh-grpc:http://127.0.0.1:50000", "is not HOST:PORT on the loopback interface"),
        ("cdh-grpc:127.0.0.1:x", "is not HOST:PORT on the loopback interface"),
        (f"cdh-grpc:127.0.0.1:{'9' * 20}", "is not HOST:PORT on the loopback interface"),
        ("cdh-grpc:unix:///run/cdh.sock", "is not HOST:PORT on the loopback interface"),
        ("cdh-ttrpc:cdh.sock", "is neither unix:///PATH nor a path"),
        ("cdh-ttrpc:vsock://3:1024", "is neither unix:///PATH nor a path"),
        ("cdh-ttrpc:/run/\0", "is neither unix:///PATH nor a path"),
    ],
)
def test_what_is_no_source(source: str, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_sources({"source": source})
    assert text in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_loopback_interface_has_several_names() -> None:
    for where in ("http://localhost:8006", "http://[::1]:8006", "http://127.9.9.9", "https://hub.example/agent/"):
        assert parse_sources({"source": f"cdh-rest:{where}"})[0].source.describe() == f"cdh-rest:{where.rstrip('/')}"
    for where in ("localhost:50000", "[::1]:50000", "127.9.9.9:1"):
        assert parse_sources({"source": f"cdh-grpc:{where}"})[0].source.describe() == f"cdh-grpc:{where}"


def test_ttrpc_needs_neither_grpcio_nor_requests(hub: Hub, tmp_path: Path) -> None:
    program = without_modules(tmp_path, "grpc", "requests")
    with hub.ttrpc(tmp_path / "socket"):
        source = f"cdh-ttrpc:{tmp_path}/socket"
        assert decrypt(tmp_path, [source], program=program) == (0, PLAINTEXT, "")
    result = decrypt(tmp_path, ["cdh-rest:http://127.0.0.1:1", "cdh-grpc:127.0.0.1:1"], program=program)
    assert result.status == 6
    assert "pip install 'ctd-decoder[coco] @ " in result.errors
    assert "pip install 'ctd-decoder[grpc] @ " in result.errors
