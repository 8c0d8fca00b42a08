"""One connection of a server: bytes between a client and the gRPC server, with bounded buffers."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest

from decoder import limits
from decoder.provider.server.clients.peer import Peer
from decoder.provider.server.connections.connection import Connection
from decoder.provider.server.connections.http2 import GO_AWAY

SETTINGS = bytes(3) + b"\x04\x00" + bytes(4)
CALL = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS + b"\x00\x00\x01\x01\x05\x00\x00\x00\x01\x82"
SECONDS = 60.0


class Parts(NamedTuple):
    """A connection, the client's socket, the listening socket of the gRPC server, and the reasons of closed ones."""

    connection: Connection
    client: socket.socket
    server: socket.socket
    ended: list[str]

    async def accepted(self) -> socket.socket:
        accepted, _ = await asyncio.get_running_loop().sock_accept(self.server)
        accepted.setblocking(False)
        return accepted

    async def read(self, size: int) -> bytes:
        """Read as many bytes as the client gets, up to a size."""
        data = b""
        while len(data) < size and (more := await asyncio.get_running_loop().sock_recv(self.client, size - len(data))):
            data += more
        return data


@asynccontextmanager
async def running(backlog: int = 10, is_listening: bool = True) -> AsyncIterator[Parts]:
    name = f"ctd-decoder-test-{secrets.token_hex(8)}"
    theirs, ours = socket.socketpair()
    ended: list[str] = []
    with theirs, ours, socket.socket(socket.AF_UNIX) as server:
        server.bind(f"\0{name}")
        if is_listening:
            server.listen(backlog)
        server.setblocking(False)
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        connection = Connection(loop, theirs, Peer("unix:"), None, name, lambda _, why: ended.append(why))
        try:
            yield Parts(connection, ours, server, ended)
        finally:
            connection.close()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(test(), SECONDS)

    asyncio.run(limited())


def test_a_client_that_reads_late_gets_everything() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        payload = secrets.token_bytes(1 << 21)
        sent = (1 << 21).to_bytes(3) + bytes(6) + payload
        async with running() as parts:
            await loop.sock_sendall(parts.client, CALL)
            server = await parts.accepted()
            assert await loop.sock_recv(server, 100) == CALL
            sending = asyncio.create_task(loop.sock_sendall(server, sent))
            while len(parts.connection._to_client) <= limits.PROVIDER_SERVER_BUFFER_BYTES:
                await asyncio.sleep(0)
            assert len(parts.connection._to_client) <= limits.PROVIDER_SERVER_BUFFER_BYTES + limits.READ_BYTES
            assert await parts.read(len(sent)) == sent
            await sending
            server.close()
            assert await parts.read(1) == b""
            parts.client.close()
            while not parts.ended:
                await asyncio.sleep(0)
            assert parts.ended == [""]

    run(test)


def test_without_a_server_the_connection_ends() -> None:
    async def test() -> None:
        async with running(is_listening=False) as parts:
            await asyncio.get_running_loop().sock_sendall(parts.client, CALL)
            with pytest.raises(ConnectionResetError):  # what it sent is unread
                await parts.read(1)
            assert parts.ended == [""]

    run(test)


def test_a_server_whose_queue_is_full_is_tried_again() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        async with running(backlog=0) as parts:
            with socket.socket(socket.AF_UNIX) as first:
                first.connect(parts.server.getsockname())
                await loop.sock_sendall(parts.client, CALL)
                await asyncio.sleep(5 * limits.PROVIDER_SERVER_AGAIN_SECONDS)
                assert not parts.ended
                for expected in (b"", CALL):
                    with await parts.accepted() as accepted:
                        first.close()
                        assert await loop.sock_recv(accepted, 100) == expected

    run(test)


def test_a_request_to_leave_waits_for_the_end_of_a_frame() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        frame = b"\x00\x00\x05\x00\x00" + bytes(4) + b"hello"
        async with running() as parts:
            await loop.sock_sendall(parts.client, CALL)
            with await parts.accepted() as server:
                await loop.sock_sendall(server, SETTINGS + frame[:-2])
                assert await parts.read(len(SETTINGS + frame) - 2) == SETTINGS + frame[:-2]
                parts.connection.go_away()
                parts.connection.go_away()
                await loop.sock_sendall(server, frame[-2:] + frame)
                expected = frame[-2:] + GO_AWAY + frame
                assert await parts.read(len(expected)) == expected

    run(test)


def test_a_client_that_resets_the_connection() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        async with running() as parts:
            await loop.sock_sendall(parts.client, CALL)
            with await parts.accepted() as server:
                assert await loop.sock_recv(server, 100) == CALL
                await loop.sock_sendall(server, SETTINGS)
                while not parts.connection._frames.has_begun:
                    await asyncio.sleep(0)
                parts.client.close()  # SETTINGS is unread
                assert await loop.sock_recv(server, 100) == b""
                assert parts.ended == [""]

    run(test)
