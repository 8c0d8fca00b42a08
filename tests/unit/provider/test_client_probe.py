"""The handshake by which the client finds out whether TLS is the cause of a failure of grpcio."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from decoder import limits
from decoder.provider.client.config import GrpcTls
from decoder.provider.client.tls import Trust
from decoder.provider.errors import EndedError
from tests.support.network.loopback import Authority

SECONDS = 60.0
RESET = struct.pack("ii", 1, 0)  # struct linger, socket(7): close with a reset


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@contextmanager
def serving(authority: Authority, act: Callable[[ssl.SSLSocket], None]) -> Iterator[Trust]:
    """Accept one connection, and act after its handshake."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            plain = listener.accept()[0]
            with (
                suppress(OSError),
                authority.server_context("127.0.0.1").wrap_socket(plain, server_side=True) as connection,
            ):
                act(connection)

        server = threading.Thread(target=serve)
        server.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        yield Trust(address, GrpcTls(root_ca_file=str(authority.file)), time.monotonic() + SECONDS)
        server.join(SECONDS)


def test_a_server_that_speaks_is_not_the_cause(authority: Authority) -> None:
    with serving(authority, lambda connection: connection.sendall(b"\0")) as trust:
        trust.check()


def test_a_server_that_is_silent_is_not_the_cause(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def wait(_: ssl.SSLSocket) -> None:
        ended.wait(SECONDS)

    with serving(authority, wait) as trust:
        monkeypatch.setattr(limits, "PROVIDER_PROBE_SECONDS", 0.5)
        trust.check()
        ended.set()


def test_a_server_that_resets_the_connection_has_ended_it(authority: Authority) -> None:
    """Older versions of Python show a reset as an end, newer ones as an error."""

    def reset(connection: ssl.SSLSocket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    with (
        serving(authority, reset) as trust,
        pytest.raises(EndedError, match="it ends the connection after the TLS handshake; it may require a client"),
    ):
        trust.check()
