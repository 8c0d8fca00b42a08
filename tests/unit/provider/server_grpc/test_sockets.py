"""The gRPC server of a keyprovider: its sockets, and who may connect."""

from __future__ import annotations

import socket
import stat
from typing import TYPE_CHECKING

import pytest

from tests.support.provider.server_grpc_parts import LOOPBACK, OPTIONS, WRAP, connected
from tests.support.provider.serving import (
    Server,
    ask,
    execute,
    request_of,
    result_of,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:0", "[::1]:0", "unix://{}/kp.sock"])
def test_wraps_and_unwraps(local: tuple[str, ...], tmp_path: Path, address: str) -> None:
    with (
        Server(tmp_path, *local, "--listen", address.format(tmp_path)) as server,
        connected(server) as channel,
    ):
        annotation = result_of(ask(channel, "WrapKey", WRAP))
        assert result_of(ask(channel, "UnWrapKey", request_of("keyunwrap", annotation))) == OPTIONS
    assert "stopped" in server.log


def test_the_option_of_the_published_google_server_means_loopback(local: tuple[str, ...], tmp_path: Path) -> None:
    with Server(tmp_path, *local, "--grpcport", ":0") as server, connected(server) as channel:
        assert server.target.startswith("127.0.0.1:")
        assert ask(channel, "WrapKey", WRAP)


# -- sockets


def test_the_socket_is_the_users_alone_and_goes_with_the_server(local: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "kp.sock"
    with Server(tmp_path, *local, "--listen", f"unix://{path}"):
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


def test_a_stale_socket_is_replaced(local: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "kp.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with Server(tmp_path, *local, "--listen", f"unix://{path}") as server, connected(server) as channel:
        assert ask(channel, "WrapKey", WRAP)


def test_a_living_socket_is_not(local: tuple[str, ...], tmp_path: Path) -> None:
    listen = ("--listen", f"unix://{tmp_path}/kp.sock")
    with Server(tmp_path, *local, *listen) as server:
        second = execute("serve", *local, *listen)
        assert (second.returncode, second.stdout) == (7, b"")
        assert b"another program uses this socket" in second.stderr
        with connected(server) as channel:
            assert ask(channel, "WrapKey", WRAP)


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET, socket.SOCK_STREAM])
def test_another_programs_socket_stays(local: tuple[str, ...], tmp_path: Path, kind: socket.SocketKind) -> None:
    path = tmp_path / "kp.sock"
    with socket.socket(socket.AF_UNIX, kind) as other, socket.socket(socket.AF_UNIX, kind) as client:
        other.bind(str(path))
        if kind != socket.SOCK_DGRAM:
            other.listen(0)  # a backlog of one, which the client fills
        client.connect(str(path))
        before = path.lstat().st_ino
        refused = execute("serve", *local, "--listen", f"unix://{path}")
        assert (refused.returncode, path.lstat().st_ino) == (7, before)
    assert b"another program uses this socket" in refused.stderr


def test_what_is_no_place_for_a_socket(local: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("keep")
    for path, status, text in (
        (str(file), 7, "is not a socket"),
        (f"{tmp_path}/missing/kp.sock", 7, "No such file or directory"),
        ("kp.sock", 2, "absolute path"),
        (f"{tmp_path}/{'x' * 120}", 2, "at most 107 bytes"),
    ):
        result = execute("serve", *local, "--listen", f"unix://{path}")
        assert (result.returncode, text in result.stderr.decode()) == (status, True), result.stderr
        assert result.stderr.count(b"\n") == 1
    assert file.read_text() == "keep"


def test_a_port_in_use(local: tuple[str, ...], tmp_path: Path) -> None:
    with Server(tmp_path, *local, *LOOPBACK) as server:
        second = execute("serve", *local, "--listen", server.target)
    assert second.returncode == 7
    assert b"in use" in second.stderr
    assert second.stderr.count(b"\n") == 1


def test_an_address_of_another_machine(local: tuple[str, ...]) -> None:
    result = execute("serve", *local, "--listen", "192.0.2.1:0", "--insecure")
    assert result.returncode == 7
    assert b"Cannot assign requested address" in result.stderr
    assert result.stderr.count(b"\n") == 1


# -- who may connect


@pytest.mark.parametrize("address", ["0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:0"])
def test_refuses_other_machines_without_tls(local: tuple[str, ...], address: str) -> None:
    result = execute("serve", *local, "--listen", address)
    assert result.returncode == 2
    assert b"reached from other machines" in result.stderr


@pytest.mark.parametrize("address", ["localhost", "127.0.0.1:x", "127.0.0.1:70000", "http://127.0.0.1:1", ""])
def test_addresses_that_are_none(local: tuple[str, ...], address: str) -> None:
    assert execute("serve", *local, "--listen", address).returncode in (2, 7)


def test_insecure_allows_it_with_a_warning(local: tuple[str, ...], tmp_path: Path) -> None:
    with Server(tmp_path, *local, "--listen", "0.0.0.0:0", "--insecure") as server, connected(server) as channel:
        assert ask(channel, "WrapKey", WRAP)
        assert "warning: every client that can reach" in server.log
