"""The status of a server over HTTP: metrics for Prometheus, liveness and readiness."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from tests.support.network.certificates import issue, tls_options
from tests.support.provider.serving import (
    Server,
    ask,
    execute,
    message,
    method_of,
    request_of,
    result_of,
    wait_for,
    write_key,
)

PREFIX = "ctd_keyprovider_"
WRAP = request_of("keywrap", b'{"symkey":"c2VjcmV0","digest":"sha256:0","cipheroptions":{}}')
LISTEN = ("--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0")
SLOW = """
import time
from decoder.provider import Use
from decoder.provider.services.local import Local
def wrap(self, options, parameters):
    def run(_):
        while not os.path.exists({go!r}):
            time.sleep(0.01)
        return b"wrapped"
    return Use(("local://slow",), run)
Local.wrap = wrap
"""


def connect(server: Server) -> grpc.Channel:
    return grpc.insecure_channel(server.target, [("grpc.use_local_subchannel_pool", 1)])


def test_the_numbers_are_those_of_all_processes_also_of_one_that_ended(local: tuple[str, ...], tmp_path: Path) -> None:
    with Server(tmp_path, *local, *LISTEN, "--processes", "3") as server:

        def call(count: int) -> None:
            for _ in range(count):
                with connect(server) as channel:
                    annotation = result_of(ask(channel, "WrapKey", WRAP))
                    assert ask(channel, "UnWrapKey", request_of("keyunwrap", annotation))

        call(20)
        with connect(server) as channel:
            with pytest.raises(grpc.RpcError):
                ask(channel, "WrapKey", request_of("keywrap", b"{}", {"x": ["other"]}))
            with pytest.raises(grpc.RpcError):
                ask(channel, "WrapKey", b"{")
            wait_for(lambda: server.metrics()[PREFIX + "connections",] == 1)  # it sees the end of the others
            wait_for(lambda: server.metrics()[PREFIX + "requests_in_flight",] == 0)
            found = server.metrics()
        for operation, outcome, count in (
            ("wrap", "ok", 20),
            ("unwrap", "ok", 20),
            ("wrap", "refused", 1),
            ("wrap", "malformed", 1),
            ("unwrap", "failed", 0),
        ):
            assert found[PREFIX + "requests_total", operation, outcome, "local"] == count
        assert found[PREFIX + "backend_requests_total", "wrap", "ok", "local"] == 20
        assert found[PREFIX + "request_duration_seconds_count", "wrap", "local"] == 21
        assert found[PREFIX + "request_duration_seconds_bucket", "+Inf", "wrap", "local"] == 21
        assert 0 < found[PREFIX + "request_duration_seconds_sum", "unwrap", "local"] < 20
        assert found[PREFIX + "processes",] == 3

        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
        for child in children.read_text().split():
            os.kill(int(child), signal.SIGKILL)
        wait_for(lambda: server.log.count("another one is started") == 3 and len(children.read_text().split()) == 3)
        wait_for(lambda: server.metrics()[PREFIX + "processes",] == 3)
        assert server.metrics()[PREFIX + "requests_total", "wrap", "ok", "local"] == 20


def test_what_is_asked(local: tuple[str, ...], tmp_path: Path) -> None:
    with Server(tmp_path, *local, *LISTEN) as server:
        assert server.status("/healthz") == (200, "healthy\n")
        assert server.status("/other")[0] == 404
        assert server.status("/metrics", "application/openmetrics-text; version=1.0.0")[1].endswith("# EOF\n")
        where = server.log.partition("http://127.0.0.1:")[2].partition("/")[0]
        for request, answer in (
            (b"POST /metrics HTTP/1.1\r\n\r\n", b"HTTP/1.1 405 "),
            (b"HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 200 "),
            (b"\x16\x03\x01\r\n\r\n", b"HTTP/1.1 400 "),
            (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", b""),
            (b"GET", b""),
        ):
            with socket.create_connection(("127.0.0.1", int(where)), 20) as connection:
                connection.sendall(request)
                connection.shutdown(socket.SHUT_WR)
                try:
                    assert connection.recv(13) == answer
                except ConnectionResetError:
                    assert not answer
        assert server.status("/healthz")[0] == 200


def test_a_saturated_server_is_not_ready(local: tuple[str, ...], tmp_path: Path) -> None:
    go = tmp_path / "go"
    prelude = "limits.PROVIDER_SERVER_WAITING = 10" + SLOW.format(go=str(go))
    with Server(tmp_path, *local, *LISTEN, prelude=prelude) as server, connect(server) as channel:
        wait_for(lambda: server.status("/readyz") == (200, "ready\n"))
        call = method_of(channel, "/keyprovider.KeyProviderService/WrapKey")
        running = [call.future(message(WRAP), timeout=60) for _ in range(9)]
        wait_for(lambda: server.metrics()[PREFIX + "requests_waiting",] == 9)
        assert server.status("/readyz") == (503, "saturated: 9 of 10 calls that wait for the key service\n")
        assert server.status("/healthz")[0] == 200
        go.touch()
        assert all(each.result() for each in running)
        wait_for(lambda: server.status("/readyz")[0] == 200)


def test_a_server_with_too_many_connections_is_not_ready(local: tuple[str, ...], tmp_path: Path) -> None:
    prelude = "limits.PROVIDER_SERVER_CONNECTIONS = 4"
    with Server(tmp_path, *local, *LISTEN, prelude=prelude) as server, ExitStack() as stack:
        wait_for(lambda: server.status("/readyz")[0] == 200)
        host, _, port = server.target.rpartition(":")
        for _ in range(4):
            stack.enter_context(socket.create_connection((host, int(port)), 20))
        wait_for(lambda: server.status("/readyz") == (503, "saturated: 4 of 4 connections\n"))


def test_a_server_without_a_key_is_not_ready(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    prelude = "limits.PROVIDER_SERVER_CHECK_SECONDS = 0.1"
    with Server(tmp_path, "--provider", "local", "--keys", keys, *LISTEN, prelude=prelude) as server:
        wait_for(lambda: server.metrics()[PREFIX + "processes",] == 1)
        unready = (503, "the key service cannot be reached, or no key can be read\n")
        wait_for(lambda: server.status("/readyz") == unready)
        assert server.metrics()[PREFIX + "backend_up",] == 0
        write_key(keys / "a")
        wait_for(lambda: server.status("/readyz")[0] == 200)


def test_a_process_that_hangs_is_not_healthy(local: tuple[str, ...], tmp_path: Path) -> None:
    prelude = "limits.PROVIDER_SERVER_STUCK_SECONDS = 2"
    with Server(tmp_path, *local, *LISTEN, "--processes", "2", prelude=prelude) as server:
        wait_for(lambda: server.status("/healthz")[0] == 200)
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGSTOP)
        try:
            wait_for(lambda: server.status("/healthz") == (503, "a process does not answer\n"))
        finally:
            os.kill(int(children[0]), signal.SIGCONT)
        wait_for(lambda: server.status("/healthz")[0] == 200)


def test_a_server_that_ends_is_not_ready(local: tuple[str, ...], tmp_path: Path) -> None:
    go = tmp_path / "go"
    with Server(tmp_path, *local, *LISTEN, prelude=SLOW.format(go=str(go))) as server, connect(server) as channel:
        running = method_of(channel, "/keyprovider.KeyProviderService/WrapKey").future(message(WRAP), timeout=60)
        wait_for(lambda: server.metrics()[PREFIX + "requests_waiting",] == 1)
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: server.status("/readyz") == (503, "the server is stopping\n"))
        go.touch()
        assert running.result()


def test_when_certificates_expire(local: tuple[str, ...], tmp_path: Path) -> None:
    authority = issue("ca")
    authority.write(tmp_path / "ca.pem")
    issue("server", authority, ["localhost"]).write(tmp_path / "server.pem")
    tls = tls_options(tmp_path, "ca.pem")
    with Server(tmp_path, *local, *LISTEN, *tls) as server:
        found = server.metrics()
    name = PREFIX + "certificate_expiry_timestamp_seconds"
    assert found[name, "server"] == issue_end(tmp_path / "server.pem")
    assert found[name, "client-ca"] == issue_end(tmp_path / "ca.pem")


def issue_end(path: Path) -> float:
    from cryptography import x509

    return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()


@pytest.mark.parametrize(
    ("address", "status", "text"),
    [
        ("nowhere", 2, "is not HOST:PORT"),
        ("unix:///run/x", 2, "is not HOST:PORT"),
        (f"127.0.0.1:{'1' * 5000}", 2, "is not HOST:PORT"),
        ("192.0.2.1:0", 7, "--metrics"),
    ],
)
def test_addresses_that_do_not_do(local: tuple[str, ...], address: str, status: int, text: str) -> None:
    refused = execute("serve", *local, "--listen", "127.0.0.1:0", "--metrics", address)
    assert (refused.returncode, text in refused.stderr.decode()) == (status, True), refused.stderr
    assert refused.stderr.count(b"\n") == 1


def test_without_the_library_it_says_how_to_install_it(local: tuple[str, ...]) -> None:
    prelude = "sys.modules['prometheus_client'] = None"
    refused = execute("serve", *local, *LISTEN, prelude=prelude)
    assert refused.returncode == 6
    assert b"the Python module prometheus_client is not installed: " in refused.stderr


def test_a_unix_socket_counts_its_connections(local: tuple[str, ...], tmp_path: Path) -> None:
    listen = ("--listen", f"unix://{tmp_path}/kp.sock", "--metrics", "[::1]:0")
    with Server(tmp_path, *local, *listen) as server, connect(server) as channel:
        assert ask(channel, "WrapKey", WRAP)
        assert server.metrics()[PREFIX + "connections",] == 1
