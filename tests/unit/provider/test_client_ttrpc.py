"""Keyproviders that are ttrpc servers, one of them containerd, and all that goes wrong."""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import time
from base64 import b64decode, b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import BytesValue

from decoder import limits
from decoder.errors import ProviderFailedError
from decoder.keywrap.keyprovider import KeyProvider
from decoder.provider.client import ttrpc as ttrpcclient
from decoder.provider.errors import ProviderError
from tests.support.keywrap.layers import encrypted, private_options
from tests.support.network.ttrpc_client import SECONDS, entry
from tests.support.network.ttrpc_server import HEADER, MESSAGES, Methods, RefusedError, frame, serving_ttrpc
from tests.support.program.processes import without_modules
from tests.support.provider.client_parts import NAME, PLAINTEXT, configuration, decrypt, reply, unwrap


def methods(answer: Callable[[dict[str, Any]], str]) -> Methods:
    """Make the keyprovider service of a function that answers the JSON of a request."""

    def respond(message: bytes) -> bytes:
        answered = answer(json.loads(BytesValue.FromString(message).value))
        return BytesValue(value=answered.encode()).SerializeToString()

    return {f"keyprovider.KeyProviderService/{name}": respond for name in ("WrapKey", "UnWrapKey")}


def turn(request: dict[str, Any]) -> str:
    """Wrap and unwrap by turning the private options around."""
    if request["op"] == "keywrap":
        options = b64decode(request["keywrapparams"]["optsdata"])
        return json.dumps({"keywrapresults": {"annotation": b64encode(options[::-1]).decode()}})
    return reply(b64decode(request["keyunwrapparams"]["annotation"])[::-1], integers=True)


TURNING = methods(turn)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "socket"


def cause(directory: Path, address: str | Path) -> str:
    """Tell why unwrapping failed; it takes no longer than it may."""
    started = time.monotonic()
    with pytest.raises(ProviderFailedError) as failure:
        unwrap(configuration(directory, entry(address)))
    assert time.monotonic() - started < 15
    prefix = f"the keyprovider '{NAME}' (ttrpc at {str(address)!r}): "
    assert str(failure.value).startswith(prefix)
    return str(failure.value).removeprefix(prefix)


@pytest.mark.parametrize("form", ["unix://{}", "unix:{}", "{}"])
def test_a_server_opens_the_layer(form: str, path: Path, tmp_path: Path) -> None:
    config_file = configuration(tmp_path, entry(form.format(path)))
    with serving_ttrpc(path, TURNING) as requests:
        result = decrypt(config_file, parameters={"privkeys": [b"canary"], NAME: [b"own"]})
    assert (result.status, result.plaintext) == (0, PLAINTEXT)
    (request,) = requests
    assert (request.service, request.method) == ("keyprovider.KeyProviderService", "UnWrapKey")
    assert request.timeout_nano == SECONDS * 10**9
    asked = json.loads(BytesValue.FromString(request.payload).value)
    assert asked["keyunwrapparams"]["dc"] == {"Parameters": {NAME: [b64encode(b"own").decode()]}}


def test_wraps(path: Path, tmp_path: Path) -> None:
    config_file = configuration(tmp_path, entry(path))
    with serving_ttrpc(path, TURNING) as requests:
        annotation = KeyProvider(NAME, config_file).wrap(private_options(), [b"the key"])
        layer = encrypted(PLAINTEXT, {f"provider.{NAME}": [annotation]})
        assert decrypt(config_file, layer) == (0, PLAINTEXT, "")
    assert [request.method for request in requests] == ["WrapKey", "UnWrapKey"]


def test_the_next_provider_is_asked(path: Path, tmp_path: Path) -> None:
    nowhere = {"other": {"ttrpc": f"{path}2", "aliases": [NAME]}}
    with serving_ttrpc(path, TURNING):
        assert decrypt(configuration(tmp_path, {**nowhere, **entry(path)})).status == 0


def test_replies_to_other_streams_are_not_ours(path: Path, tmp_path: Path) -> None:
    foreign = frame(MESSAGES["Response"](payload=b"foreign").SerializeToString(), 3)
    with serving_ttrpc(path, TURNING, lambda ours: foreign + frame(b"\xff" * 1000, 2, 3) + frame(b"", 5) + ours):
        assert decrypt(configuration(tmp_path, entry(path))) == (0, PLAINTEXT, "")


def response(**members: Any) -> bytes:
    return frame(MESSAGES["Response"](**members).SerializeToString())


def status(code: int, text: str) -> bytes:
    return response(status=MESSAGES["Status"](code=code, message=text))


REPLIES: dict[str, tuple[Callable[[bytes], bytes | None], str]] = {
    "nothing": (lambda _: None, f"no answer within {SECONDS} seconds"),
    "the end": (lambda ours: b"", "it ended the connection before its reply"),
    "cut in the header": (lambda ours: ours[:9], "it ended the connection before its reply"),
    "cut in the message": (lambda ours: ours[:-1], "it ended the connection before its reply"),
    "4 GiB": (lambda _: HEADER.pack(2**32 - 1, 1, 2, 0), "a message of 4294967295 bytes is too large; the limit"),
    "4 GiB of another stream": (lambda _: HEADER.pack(2**32 - 1, 3, 2, 0), "a message of 4294967295 bytes is"),
    "a byte too many": (lambda _: HEADER.pack(4194305, 1, 2, 0), "a message of 4194305 bytes is too large"),
    "less than it says": (lambda _: HEADER.pack(4194304, 1, 2, 0), "it ended the connection before its reply"),
    "another stream alone": (lambda ours: frame(ours[10:], 3), "it ended the connection before its reply"),
    "a request": (lambda ours: frame(ours[10:], 1, 1), "it answered with a frame of type 1, which is not a reply"),
    "HTTP/2": (lambda _: b"\0\0\x06\4\0\0\0\0\0\0\5\0\0\x40\0", "it ended the connection before its reply"),
    "HTTP": (lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n", "a message of 1213486160 bytes is too large"),
    "no protobuf": (lambda _: frame(b"\xff" * 100), "its reply is not one of ttrpc: a number is too long"),
    "a status that is text": (lambda _: frame(b"\x0a\x01h"), "its reply is not one of ttrpc"),
    "no payload": (lambda _: frame(b""), "its reply cannot be read: not JSON"),
    "payload of another kind": (lambda _: response(payload=b"\xff"), "its reply is not a message of the keyprovider"),
    "payload too large": (
        lambda _: response(payload=BytesValue(value=b"x" * 2**20 + b"x").SerializeToString()),
        "its reply cannot be read: the reply is longer than 1048576 bytes",
    ),
    "no access": (lambda _: status(7, "no\x1b[1m\nkey"), r"it answered PERMISSION_DENIED: 'no\x1b[1m\nkey'"),
    "an unknown code": (lambda _: status(17, "x"), "it answered with code 17: 'x'"),
    "a negative code": (lambda _: status(-1, ""), "it answered with code 18446744073709551615: ''"),
    "a long text": (lambda _: status(13, "x" * 2**20), "it answered INTERNAL: …xxx"),
}  # fmt: skip


@pytest.mark.parametrize(("mangle", "text"), REPLIES.values(), ids=REPLIES.keys())
def test_replies_that_are_none(mangle: Callable[[bytes], bytes | None], text: str, path: Path, tmp_path: Path) -> None:
    with serving_ttrpc(path, TURNING, mangle):
        reason = cause(tmp_path, path)
    assert reason.startswith(text)
    assert len(reason) < limits.PROVIDER_ERROR_BYTES + 100


def test_a_failure_of_the_program(path: Path, tmp_path: Path) -> None:
    def refuse(_: bytes) -> bytes:
        raise RefusedError("no key")

    with serving_ttrpc(path, dict.fromkeys(TURNING, refuse)):
        result = decrypt(configuration(tmp_path, entry(path)))
    assert (result.status, result.plaintext) == (6, b"")
    assert f"the keyprovider '{NAME}' (ttrpc at '{path}'): it answered INTERNAL: 'no key'" in result.errors


def test_another_service(path: Path, tmp_path: Path) -> None:
    with serving_ttrpc(path, {}):
        assert cause(tmp_path, path).startswith("it answered UNIMPLEMENTED: ")


def test_a_server_that_drips(path: Path, tmp_path: Path) -> None:
    """The time limit is one for all of the reply, not one for each of its pieces."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        program = (
            "import socket, time; s = socket.socket(fileno=0).accept()[0]\nwhile True: s.send(b'\\0'); time.sleep(0.3)"
        )
        dripping = subprocess.Popen([sys.executable, "-c", program], stdin=listener.fileno(), stderr=subprocess.DEVNULL)
        try:
            assert cause(tmp_path, path) == f"no answer within {SECONDS} seconds"
        finally:
            dripping.kill()
            dripping.wait()


def test_nobody_accepts(path: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        assert cause(tmp_path, path) == f"no answer within {SECONDS} seconds"
        assert cause(tmp_path, path) == "it cannot be reached: Resource temporarily unavailable", "its queue is full"


def test_a_request_that_nobody_reads(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(ProviderError, match=f"^no answer within {SECONDS} seconds$"):
            ttrpcclient.call(str(path), "a.B", "C", bytes(4_000_000), SECONDS)
        with pytest.raises(ProviderError, match=r"^a message of 4194[0-9]+ bytes is too large"):
            ttrpcclient.call(str(path), "a.B", "C", bytes(limits.TTRPC_MESSAGE_BYTES), SECONDS)


def test_a_server_that_ends_the_connection_unread(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor(1) as pool:
        listener.bind(str(path))
        listener.listen()
        asked = pool.submit(ttrpcclient.call, str(path), "a.B", "C", b"", 60)
        connection = listener.accept()[0]
        assert select.select([connection], [], [], 60)[0]
        connection.close()
        with pytest.raises(ProviderError, match=r"^the connection broke off: Connection reset by peer$"):
            asked.result()


def test_no_time_is_left_for_a_request(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(ProviderError, match=r"^no answer within 1e-09 seconds$"):
            ttrpcclient.call(str(path), "a.B", "C", b"", 1e-9)


def test_a_server_that_cannot_be_reached(path: Path, tmp_path: Path) -> None:
    assert cause(tmp_path, path) == "it cannot be reached: No such file or directory"
    path.touch()
    assert cause(tmp_path, path) == "it cannot be reached: Connection refused"
    assert cause(tmp_path, f"/{'x' * 150}") == "it cannot be reached: AF_UNIX path too long"
    for address in ("127.0.0.1:50000", "unix://socket", "http:///run/socket", "vsock://3:1024", "unix:"):
        assert cause(tmp_path, address) == f"the address '{address}' is neither unix:///PATH nor a path"


def test_no_grpc_is_needed(path: Path, tmp_path: Path) -> None:
    program = without_modules(tmp_path, "grpc")
    with serving_ttrpc(path, TURNING):
        assert decrypt(configuration(tmp_path, entry(path)), program=program) == (0, PLAINTEXT, "")
    over_grpc = configuration(tmp_path, {NAME: {"grpc": f"unix://{path}"}})
    assert "ctd-decoder[grpc] @ " in decrypt(over_grpc, program=program).errors
