"""The server under many connections and calls, with several processes."""

from __future__ import annotations

import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from decoder.keywrap.keyprovider import KeyProvider
from decoder.provider.server import processes as processes_of_server
from tests.support.keywrap.layers import private_options
from tests.support.provider.client_parts import NAME, configuration
from tests.support.provider.serving import (
    Server,
    ask,
    execute,
    local_options,
    message,
    method_of,
    request_of,
    result_of,
    wait_for,
)

LOOPBACK = ("--listen", "127.0.0.1:0")
WRAP = request_of("keywrap", b'{"symkey":"c2VjcmV0","digest":"sha256:0","cipheroptions":{}}')
# A provider that tells which process has answered.
TELLING = """
from decoder.provider import Use
from decoder.provider.services.local import Local
def wrap(self, options, parameters):
    return Use(("local://a",), lambda seconds: str(os.getpid()).encode(), False)
Local.wrap = wrap
"""


@pytest.fixture
def local(tmp_path: Path) -> tuple[str, ...]:
    return local_options(tmp_path)


def processes(server: Server, connections: int = 40) -> set[int]:
    """Ask over several connections, and return who has answered."""
    found = set()
    for _ in range(connections):
        with grpc.insecure_channel(server.target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            found.add(int(result_of(ask(channel, "WrapKey", WRAP))))
    return found


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:0", "[::1]:0"])
def test_connections_are_spread_over_processes(local: tuple[str, ...], tmp_path: Path, address: str) -> None:
    with Server(tmp_path, *local, "--listen", address, "--processes", "3", prelude=TELLING) as server:
        found = processes(server)
        assert len(found) > 1
        assert server.process.pid not in found
    assert "stopped" in server.log
    for process in found:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_a_process_that_dies_is_replaced(local: tuple[str, ...], tmp_path: Path) -> None:
    with Server(tmp_path, *local, *LOOPBACK, "--processes", "2", prelude=TELLING) as server:
        before = processes(server)
        os.kill(next(iter(before)), signal.SIGKILL)
        wait_for(lambda: "ended with status -9; another one is started" in server.log)
        wait_for(lambda: len(processes(server, 5) - before) > 0)


def test_processes_end_with_their_parent(local: tuple[str, ...], tmp_path: Path) -> None:
    """Even if it is killed."""
    server = Server(tmp_path, *local, *LOOPBACK, "--processes", "2", prelude=TELLING).__enter__()
    found = processes(server)
    server.process.kill()
    server.process.wait(120)
    wait_for(lambda: not any(Path(f"/proc/{process}/exe").exists() for process in found))


def test_a_port_in_use_is_not_shared(local: tuple[str, ...], tmp_path: Path) -> None:
    with Server(tmp_path, *local, *LOOPBACK, "--processes", "2") as server:
        for count in ("1", "2"):
            second = execute("serve", *local, "--listen", server.target, "--processes", count)
            assert (second.returncode, b"in use" in second.stderr) == (7, True)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--processes", "0"), "from 1 to 64"),
        (("--processes", "65"), "from 1 to 64"),
        (("--processes", "x"), "invalid int value"),
    ],
)
def test_numbers_that_it_refuses(local: tuple[str, ...], arguments: tuple[str, ...], text: str) -> None:
    refused = execute("serve", *local, *LOOPBACK, *arguments)
    assert (refused.returncode, text in refused.stderr.decode()) == (2, True)


@pytest.mark.parametrize(("quota", "count"), [("150000 100000", 1), ("200000 100000", 2), ("max 100000", 8), ("", 8)])
def test_the_default_is_what_the_container_may_use(
    quota: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(processes_of_server, "_CPU_MAX", str(tmp_path / "cpu.max"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert processes_of_server.default_count() == count


def test_a_unix_socket_has_one_process(local: tuple[str, ...], tmp_path: Path) -> None:
    refused = execute("serve", *local, "--listen", f"unix://{tmp_path}/s", "--processes", "2")
    assert (refused.returncode, b"only one process" in refused.stderr) == (2, True)


def test_what_fails_in_a_process_is_told_once(tmp_path: Path) -> None:
    refused = execute("serve", "--provider", "local", "--key", f"{tmp_path}/none", *LOOPBACK, "--processes", "3")
    assert refused.returncode == 6
    assert refused.stderr.count(b"\n") == 1


def test_five_thousand_calls_at_once_over_fifty_connections(local: tuple[str, ...], tmp_path: Path) -> None:
    with Server(tmp_path, *local, *LOOPBACK) as server, ExitStack() as stack:
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [stack.enter_context(grpc.insecure_channel(server.target, options)) for _ in range(50)]
        calls = [
            method_of(channel, "/keyprovider.KeyProviderService/WrapKey").future(message(WRAP), timeout=120)
            for _ in range(100)
            for channel in channels
        ]
        assert all(call.result() for call in calls)


def test_connections_are_bounded_and_those_that_say_nothing_are_closed(local: tuple[str, ...], tmp_path: Path) -> None:
    prelude = "limits.PROVIDER_SERVER_CONNECTIONS = 10; limits.PROVIDER_SERVER_HANDSHAKE_SECONDS = 1"
    with Server(tmp_path, *local, *LOOPBACK, prelude=prelude) as server, ExitStack() as stack:
        host, _, port = server.target.rpartition(":")
        silent = [stack.enter_context(socket.create_connection((host, int(port)), 10)) for _ in range(30)]
        for each in silent:
            each.settimeout(30)
            while each.recv(1024):  # the server's preface
                pass
        config = configuration(tmp_path, {NAME: {"grpc": server.target}})
        assert KeyProvider(NAME, config).wrap(private_options(), [])


def test_no_call_of_our_client_is_lost_when_a_server_is_replaced(local: tuple[str, ...], tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = configuration(tmp_path, {NAME: {"grpc": address, "timeout": 60}})
    until = 0.0

    def ask_all_the_time(_: int) -> int:
        count = 0
        while not until or time.monotonic() < until:
            assert KeyProvider(NAME, config, packet_format="old").wrap(private_options(), [])
            count += 1
        return count

    with ThreadPoolExecutor(4) as pool:
        counts = pool.map(ask_all_the_time, range(4))
        for number in range(3):
            directory = tmp_path / str(number)
            directory.mkdir()
            with Server(directory, *local, "--listen", address, "--processes", "2"):
                time.sleep(1)
        with Server(tmp_path, *local, "--listen", address):
            until = time.monotonic() + 1
            assert all(counts)
