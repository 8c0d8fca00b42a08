"""What the gRPC server is asked, its bounds and its end."""

from __future__ import annotations

import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from decoder import limits
from tests.support.provider.server_grpc_parts import LOOPBACK, OPTIONS, SERVICE, WRAP, connected, failure
from tests.support.provider.serving import (
    Server,
    ask,
    contents,
    message,
    method_of,
    request_of,
    result_of,
    wait_for,
)

if TYPE_CHECKING:
    from pathlib import Path

# A provider that takes its time, and says so when it starts.
SLOW = """
import time
from decoder.provider import Use
from decoder.provider.services.local import Local
def until(path):
    while not os.path.exists(path):
        time.sleep(0.01)
    return 0
def wrap(self, options, parameters):
    def run(_):
        os.write(2, b"slow wrap started\\n")
        time.sleep({seconds})
        return b"wrapped"
    return Use(("local://slow",), run)
Local.wrap = wrap
"""


# -- what is asked


def test_health(local: tuple[str, ...], tmp_path: Path) -> None:
    with Server(tmp_path, *local, *LOOPBACK) as server, connected(server) as channel:
        check = method_of(channel, "/grpc.health.v1.Health/Check")
        assert [check(request, timeout=120) for request in (b"", message(SERVICE.encode()))] == [b"\x08\x01"] * 2
        status, _ = failure(channel, "/grpc.health.v1.Health/Check", message(b"nobody"))
        assert status == grpc.StatusCode.NOT_FOUND
        status, _ = failure(channel, "/grpc.health.v1.Health/Check", b"\xff")
        assert status == grpc.StatusCode.INVALID_ARGUMENT
        watch: Any = channel.unary_stream("/grpc.health.v1.Health/Watch")
        known, unknown = watch(b"", timeout=120), watch(message(b"nobody"), timeout=120)
        assert (next(known), next(unknown)) == (b"\x08\x01", b"\x08\x03")
        server.process.send_signal(signal.SIGTERM)
        assert (list(known), list(unknown)) == ([b"\x08\x02"], [])


@pytest.mark.parametrize(
    "method",
    [
        f"/{SERVICE}/Other",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ],
)
def test_there_is_nothing_else(local: tuple[str, ...], tmp_path: Path, method: str) -> None:
    with Server(tmp_path, *local, *LOOPBACK) as server, connected(server) as channel:
        assert failure(channel, method, b"")[0] == grpc.StatusCode.UNIMPLEMENTED


def test_malformed_requests(local: tuple[str, ...], tmp_path: Path) -> None:
    with Server(tmp_path, *local, *LOOPBACK) as server, connected(server) as channel:
        for method, data in (
            ("WrapKey", b""),
            ("WrapKey", b"\xff"),
            ("WrapKey", b"\x0a\x05ab"),
            ("WrapKey", b"\x08\x01"),
            ("WrapKey", message(b"{")),
            ("UnWrapKey", message(WRAP)),
            ("WrapKey", message(request_of("keyunwrap", b"{}"))),
        ):
            assert failure(channel, f"/{SERVICE}/{method}", data)[0] == grpc.StatusCode.INVALID_ARGUMENT
        unknown_field = message(WRAP) + b"\x10\x01"
        assert contents(method_of(channel, f"/{SERVICE}/WrapKey")(unknown_field, timeout=120))
    assert server.log.count("malformed request from ipv4:127.0.0.1:") == 7
    assert len(server.audit) == 1


def test_what_the_provider_says_reaches_the_client(local: tuple[str, ...], tmp_path: Path) -> None:
    with Server(tmp_path, *local, *LOOPBACK) as server, connected(server) as channel:
        request = message(request_of("keywrap", OPTIONS, {"x": ["other"]}))
        code, text = failure(channel, f"/{SERVICE}/WrapKey", request)
    assert code == grpc.StatusCode.INTERNAL
    assert text == "the key 'local://other' is not the configured one (allow-key can allow more)"


@pytest.mark.parametrize("debug", ["", "1"])
def test_what_a_defect_says_does_not(
    debug: str, local: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CTD_DECODER_DEBUG", debug)
    prelude = """
from decoder.provider.services.local import Local
def wrap(self, options, parameters):
    raise ValueError("the key is SECRET")
Local.wrap = wrap
"""
    with Server(tmp_path, *local, *LOOPBACK, prelude=prelude) as server, connected(server) as channel:
        answer = failure(channel, f"/{SERVICE}/WrapKey", message(WRAP))
        assert answer == (grpc.StatusCode.INTERNAL, "internal error")
    assert "internal error: ValueError at" in server.log
    assert ("ValueError, most recent call last:\n  decoder.provider" in server.log) == bool(debug)
    assert "SECRET" not in server.log
    assert server.audit[0]["reason"] == "internal"


# -- bounds


def test_messages_that_are_too_long(local: tuple[str, ...], tmp_path: Path) -> None:
    with Server(tmp_path, *local, *LOOPBACK) as server, connected(server) as channel:
        longest = WRAP + b" " * (limits.PROVIDER_MESSAGE_BYTES - len(WRAP))
        assert ask(channel, "WrapKey", longest)
        code, _ = failure(channel, f"/{SERVICE}/WrapKey", message(longest + b" " * 20))
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert ask(channel, "WrapKey", WRAP)


def test_calls_beyond_the_bound_are_refused_at_once(local: tuple[str, ...], tmp_path: Path) -> None:
    released = tmp_path / "released"
    prelude = "limits.PROVIDER_SERVER_CALLS = 2" + SLOW.format(seconds=f"until({str(released)!r})")
    with Server(tmp_path, *local, *LOOPBACK, prelude=prelude) as server, connected(server) as channel:
        call = method_of(channel, f"/{SERVICE}/WrapKey")
        running = [call.future(message(WRAP), timeout=120) for _ in range(2)]
        wait_for(lambda: server.log.count("slow wrap started") == 2)
        assert failure(channel, f"/{SERVICE}/WrapKey", message(WRAP))[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert not any(future.done() for future in running)
        released.touch()
        assert [result_of(contents(future.result())) for future in running] == [b"wrapped"] * 2
        assert ask(channel, "WrapKey", WRAP)


def test_a_provider_that_hangs_holds_up_its_own_call_alone(local: tuple[str, ...], tmp_path: Path) -> None:
    prelude = "limits.PROVIDER_SECONDS = 0.5" + SLOW.format(seconds="100 if parameters else 0")
    hanging = message(request_of("keywrap", OPTIONS, {"x": ["hang"]}))
    with Server(tmp_path, *local, *LOOPBACK, prelude=prelude) as server, connected(server) as channel:
        slow = method_of(channel, f"/{SERVICE}/WrapKey").future(hanging, timeout=120)
        assert result_of(ask(channel, "WrapKey", WRAP)) == b"wrapped"
        assert not slow.done()
        assert slow.details() == "the provider did not answer within 0.5 seconds"
        assert slow.code() == grpc.StatusCode.INTERNAL


# -- the end


def is_refused(channel: grpc.Channel) -> bool:
    """Try a call: what reaches the server before the connection is told of the end is answered."""
    try:
        method_of(channel, f"/{SERVICE}/WrapKey")(message(WRAP), timeout=120)
    except grpc.RpcError as error:
        assert isinstance(error, grpc.Call)  # noqa: PT017
        if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):  # clients try again after both
            raise
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_running_call_may_end(local: tuple[str, ...], tmp_path: Path, number: signal.Signals) -> None:
    with (
        Server(tmp_path, *local, *LOOPBACK, prelude=SLOW.format(seconds=1)) as server,
        connected(server) as channel,
        connected(server) as late,
    ):
        running = method_of(channel, f"/{SERVICE}/WrapKey").future(message(WRAP), timeout=120)
        wait_for(lambda: "slow wrap started" in server.log)
        server.process.send_signal(number)
        wait_for(lambda: not accepts(server.target))
        wait_for(lambda: is_refused(late))
        assert result_of(contents(running.result())) == b"wrapped"
        assert server.process.wait(120) == 0


def test_a_call_that_hangs_is_ended(local: tuple[str, ...], tmp_path: Path) -> None:
    prelude = "limits.PROVIDER_SERVER_GRACE_SECONDS = 0.3" + SLOW.format(seconds=100)
    listen = ("--listen", f"unix://{tmp_path}/kp.sock")
    with Server(tmp_path, *local, *listen, prelude=prelude) as server, connected(server) as channel:
        running = method_of(channel, f"/{SERVICE}/WrapKey").future(message(WRAP), timeout=120)
        wait_for(lambda: "slow wrap started" in server.log)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(120) == 0
        assert running.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert not (tmp_path / "kp.sock").exists()


def accepts(target: str) -> bool:
    host, _, port = target.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 1).close()
    except OSError:
        return False
    return True


def test_many_at_once(local: tuple[str, ...], tmp_path: Path) -> None:
    with Server(tmp_path, *local, *LOOPBACK) as server, connected(server) as channel, ThreadPoolExecutor(64) as pool:
        annotation = result_of(ask(channel, "WrapKey", WRAP))
        request = request_of("keyunwrap", annotation)
        replies = list(pool.map(lambda _: ask(channel, "UnWrapKey", request), range(640)))
    assert {result_of(reply) for reply in replies} == {OPTIONS}
    assert len(server.audit) == 641
