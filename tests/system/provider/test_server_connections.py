"""Connections of a server: its end loses no call of any client, and none of them can hold it up."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import grpc
import pytest

from tests.support.network.certificates import issue, tls_options
from tests.support.provider.serving import Server, ask, local_options, message, method_of, request_of, wait_for

LOOPBACK = ("--listen", "127.0.0.1:0")
WRAP = request_of("keywrap", b'{"symkey":"c2VjcmV0","digest":"sha256:0","cipheroptions":{}}')
METHOD = "/keyprovider.KeyProviderService/WrapKey"
OWN = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
PATIENT = "limits.PROVIDER_SERVER_LEAVE_SECONDS = 60.0"  # however busy the machine is
SLOW = """
import time
from decoder.provider import Use
from decoder.provider.services.local import Local
def wrap(self, options, parameters):
    def run(_):
        time.sleep({seconds})
        return b"wrapped"
    return Use(("local://slow",), run)
Local.wrap = wrap
"""


@pytest.fixture
def local(tmp_path: Path) -> tuple[str, ...]:
    return local_options(tmp_path)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_the_end_loses_no_call_of_any_client(local: tuple[str, ...], tmp_path: Path, processes: str) -> None:
    """Clients that never try again: each call that got through to the server is answered.

    A call can still fail because nobody listens any more: then it did not reach the server.
    """
    stop = threading.Event()
    answered: list[int] = []
    refused: list[str] = []
    lost: list[str] = []

    def call_all_the_time(channel: grpc.Channel) -> None:
        call = method_of(channel, METHOD)
        while not stop.is_set():
            try:
                call(message(WRAP), timeout=60)
                answered.append(1)
            except grpc.RpcError as error:
                assert isinstance(error, grpc.Call)  # noqa: PT017
                text = f"{error.code().name}: {error.details()}"
                (refused if "onnection refused" in text else lost).append(text)
                return

    with ExitStack() as stack:
        server = stack.enter_context(
            Server(tmp_path, *local, *LOOPBACK, "--processes", processes, prelude=SLOW.format(seconds=0.02))
        )
        channels = [stack.enter_context(grpc.insecure_channel(server.target, OWN)) for _ in range(8)]
        pool = stack.enter_context(ThreadPoolExecutor(32))
        working = [pool.submit(call_all_the_time, channel) for channel in channels * 4]
        wait_for(lambda: len(answered) > 200)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
        wait_for(lambda: all(each.done() for each in working))
        stop.set()
    assert len(answered) + len(lost) == len(server.audit)
    assert (lost, len(refused)) == ([], 32)


def test_calls_of_connections_that_wait_to_be_accepted_are_answered(local: tuple[str, ...], tmp_path: Path) -> None:
    """They have reached the socket when SIGTERM comes; a client on a busy machine sends its call later."""
    with Server(tmp_path, *local, *LOOPBACK, prelude=PATIENT) as server, ExitStack() as stack:
        os.kill(server.process.pid, signal.SIGSTOP)
        channels = [stack.enter_context(grpc.insecure_channel(server.target, OWN)) for _ in range(20)]
        calls = [method_of(channel, METHOD).future(message(WRAP), timeout=60) for channel in channels]
        wait_for(lambda: connections_to(server.target) == 20)
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        os.kill(server.process.pid, signal.SIGCONT)
        assert all(call.result() for call in calls)
    assert len(server.audit) == 20


def test_the_first_call_of_a_connection_is_answered_if_it_comes_after_the_signal(
    local: tuple[str, ...], tmp_path: Path
) -> None:
    """The client learns only after SIGTERM that its connection is ready, and never tries again."""
    with (
        Server(tmp_path, *local, *LOOPBACK, prelude=PATIENT) as server,
        ThreadPoolExecutor(2) as relays,
        socket.create_server(("127.0.0.1", 0)) as door,
        grpc.insecure_channel(f"127.0.0.1:{door.getsockname()[1]}", OWN) as channel,
    ):
        call = method_of(channel, METHOD).future(message(WRAP), timeout=120)
        client, _ = door.accept()
        door.close()
        with client, connect(server.target) as upstream:
            relays.submit(relay, client, upstream)
            beginning = upstream.recv(1 << 16)
            server.process.send_signal(signal.SIGTERM)
            wait_for(lambda: not is_listening(server.target))
            upstream.settimeout(0.5)
            with suppress(TimeoutError):  # GOAWAY would come now, and reach the client together with SETTINGS
                beginning += upstream.recv(1 << 16)
            upstream.settimeout(None)
            client.sendall(beginning)
            relays.submit(relay, upstream, client)
            try:
                assert call.result()
            finally:
                for end in (client, upstream):  # which ends the relays
                    with suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)


def relay(source: socket.socket, target: socket.socket) -> None:
    """Pass on what comes, until the end."""
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_RDWR)


def connect(target: str) -> socket.socket:
    host, _, port = target.rpartition(":")
    return socket.create_connection((host, int(port)), 60)


def is_listening(target: str) -> bool:
    try:
        connect(target).close()
    except ConnectionRefusedError:
        return False
    return True


def connections_to(target: str) -> int:
    """Count the server's ends of connections to it, those that wait to be accepted, too (proc(5), /proc/net/tcp)."""
    ends = [line.split()[1:4] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    port = f":{int(target.rpartition(':')[2]):04X}"
    return sum(local.endswith(port) and state == "01" for local, _, state in ends)


def test_a_connection_that_does_not_heed_does_not_hold_up_the_end(local: tuple[str, ...], tmp_path: Path) -> None:
    with Server(tmp_path, *local, *LOOPBACK) as server, socket.socket() as deaf, socket.socket() as silent:
        host, _, port = server.target.rpartition(":")
        for each in (deaf, silent):
            each.connect((host, int(port)))
        deaf.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04\x00" + bytes(4))
        assert deaf.recv(9)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
        assert time.monotonic() - began < 15


def test_a_client_that_does_not_read_is_not_sent_more_and_holds_up_nobody(
    local: tuple[str, ...], tmp_path: Path
) -> None:
    with Server(tmp_path, *local, *LOOPBACK) as server, socket.socket() as flood:
        host, _, port = server.target.rpartition(":")
        flood.connect((host, int(port)))
        flood.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04\x00" + bytes(4))
        ping = b"\x00\x00\x08\x06\x00" + bytes(4) + bytes(8)
        flood.settimeout(2)
        try:
            for _ in range(300):
                flood.sendall(ping * 1000)
        except OSError:
            pass  # it is not read either, or was ended
        with grpc.insecure_channel(server.target, OWN) as channel:
            assert ask(channel, "WrapKey", WRAP)
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        (resident,) = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")]
        assert resident < 200 * 1024


def test_more_connections_than_descriptors_are_refused_and_the_server_stays(
    local: tuple[str, ...], tmp_path: Path
) -> None:
    prelude = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (286, 286))"
    with (
        Server(tmp_path, *local, *LOOPBACK, "--metrics", "127.0.0.1:0", prelude=prelude) as server,
        ExitStack() as stack,
    ):
        host, _, port = server.target.rpartition(":")
        for _ in range(50):
            stack.enter_context(socket.create_connection((host, int(port)), 20))
        wait_for(lambda: server.metrics()["ctd_keyprovider_refused_connections_total",] == 40)
        assert server.metrics()["ctd_keyprovider_connections",] == 10
        stack.close()
        wait_for(lambda: server.metrics()["ctd_keyprovider_connections",] == 0)
        with grpc.insecure_channel(server.target, OWN) as channel:
            assert ask(channel, "WrapKey", WRAP)


def test_idle_tls_connections_take_little_memory(local: tuple[str, ...], tmp_path: Path) -> None:
    """One takes so little that all that a process accepts fit into the limit of the manifest."""
    authority = issue("ca")
    authority.write(tmp_path / "ca.pem")
    issue("server", authority, ["localhost"]).write(tmp_path / "server.pem")
    client = issue("client", authority)
    tls = tls_options(tmp_path, "ca.pem")
    credentials = grpc.ssl_channel_credentials(authority.certificate, client.key, client.certificate)
    options = [("grpc.ssl_target_name_override", "localhost"), *OWN]
    with Server(tmp_path, *local, *LOOPBACK, *tls) as server, ExitStack() as stack:

        def connect(count: int) -> None:
            channels = [
                stack.enter_context(grpc.secure_channel(server.target, credentials, options)) for _ in range(count)
            ]
            assert all(ask(channel, "WrapKey", WRAP) for channel in channels)

        def resident() -> int:
            text = Path(f"/proc/{server.process.pid}/status").read_text()
            return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS:"))

        connect(100)
        before = resident()
        connect(200)
        each = (resident() - before) / 200
        assert each < 110, f"{each:.0f} KiB for each connection"
