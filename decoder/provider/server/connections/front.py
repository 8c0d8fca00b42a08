"""The front of a server's process: it accepts connections, limits their number, and knows the client of each call."""

from __future__ import annotations

import asyncio
import resource
import secrets
import socket
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

from decoder import limits
from decoder.provider.server.clients import peer
from decoder.provider.server.connections import listening
from decoder.provider.server.connections.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from decoder.provider.server.clients.peer import Peer
    from decoder.provider.server.connections.shortage import Shortage
    from decoder.provider.server.numbers.tally import Row
    from decoder.provider.server.reloaded import Reloaded
    from decoder.provider.server.tls import Tls

_ABSTRACT = "unix-abstract:"
_FILES_OF_ONE = 3  # the client's socket, and both ends of the one to the gRPC server


class Front:
    """Connections to one process.

    Args:
        listeners: the listening sockets.
        tls: the TLS files, or None for connections without TLS.
        refused: is called with each client that is refused before it could call, and the reason.
        row: the counters of this process.
        shortage: reports that there are no free descriptors.

    Attributes:
        target: the address of this process's gRPC server; its name cannot be guessed.
    """

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        tls: Reloaded[Tls] | None,
        refused: Callable[[Peer, str], None],
        row: Row,
        shortage: Shortage,
    ) -> None:
        self._name = f"ctd-decoder-{secrets.token_hex(16)}"
        self.target = _ABSTRACT + self._name
        self._listeners = listeners
        self._tls = tls
        self._refused = refused
        self._row = row
        self._shortage = shortage
        self._connections: dict[str, Connection] = {}
        self._is_leaving = False
        self._most = _bound()

    def open(self) -> None:
        """Begin to accept connections."""
        for listener in self._listeners:
            listener.setblocking(False)
            self._open_one(listener)

    def _open_one(self, listener: socket.socket) -> None:
        if not self._is_leaving:
            asyncio.get_running_loop().add_reader(listener.fileno(), self._accept, listener)

    def find(self, address: str) -> Connection | None:
        """Find the connection of a call, by the address that gRPC sees; None if it did not come through the front."""
        return self._connections.get(address.removeprefix(_ABSTRACT))

    def recheck(self) -> None:
        """Ask clients whose authority is no longer trusted to disconnect, after the TLS files were read again."""
        for connection in list(self._connections.values()):
            if not self.is_trusted(connection):
                connection.go_away()

    def is_trusted(self, connection: Connection) -> bool:
        """Check whether the authority of a client, which was trusted in the handshake, is still trusted."""
        if not self._tls or not connection.peer.chain:
            return True
        if connection.trust[0] != self._tls.generation:
            is_issued = connection.peer.is_issued_by(self._tls.value.authorities)
            connection.trust = self._tls.generation, is_issued
        return connection.trust[1]

    async def leave(self, seconds: float, is_idle: Callable[[], bool]) -> None:
        """Stop accepting new connections, ask all clients to leave, and let them finish their calls.

        Args:
            seconds: how long that may take.
            is_idle: returns whether no call is being answered.
        """
        self._is_leaving = True
        for listener in self._listeners:
            listening.stop_arrivals(listener)
            while self._accept(listener):
                pass
            asyncio.get_running_loop().remove_reader(listener.fileno())
            listening.shut(listener)
        for connection in list(self._connections.values()):
            connection.go_away()
        deadline = monotonic() + seconds
        while self._connections and monotonic() < deadline:
            quiet = monotonic() - max(each.active for each in self._connections.values())
            if is_idle() and quiet > 1.5 * limits.PROVIDER_SERVER_LEAVE_SECONDS:
                break  # the remaining clients ignore the request to leave
            await asyncio.sleep(limits.SOCKET_LOCK_POLL_SECONDS)

    def close(self) -> None:
        """Close all connections."""
        for connection in list(self._connections.values()):
            connection.close()

    def _accept(self, listener: socket.socket) -> int:
        """Accept up to PROVIDER_SERVER_ACCEPTS connections, and return how many."""
        for count in range(limits.PROVIDER_SERVER_ACCEPTS):
            try:
                client, name = listener.accept()
            except BlockingIOError:
                return count
            except ConnectionAbortedError:
                continue  # the client is gone
            except OSError as error:
                self._pause(listener, error)
                return 0
            if len(self._connections) >= self._most:
                client.close()
                self._row.add("refused_connections")
                continue
            self._take(client, name)
        return limits.PROVIDER_SERVER_ACCEPTS

    def _pause(self, listener: socket.socket, error: OSError) -> None:
        """Accept nothing for a while, because the listener stays readable and would occupy a processor."""
        if not self._is_leaving:
            self._shortage.report(error)
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener.fileno())
        loop.call_later(limits.PROVIDER_SERVER_SHORTAGE_SECONDS, self._open_one, listener)

    def _take(self, client: socket.socket, name: object) -> None:
        if client.family == socket.AF_UNIX:
            who = peer.of_unix(client)
        else:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            assert isinstance(name, tuple)  # noqa: S101
            who = peer.Peer(peer.address_of(name))
        context = self._tls.value.context if self._tls else None
        loop = asyncio.get_running_loop()
        connection = Connection(loop, client, who, context, self._name, self._forget)
        connection.trust = self._tls.generation if self._tls else 0, True
        self._connections[connection.name] = connection
        self._row.set("connections", value=len(self._connections))
        if self._is_leaving:
            loop.call_later(limits.PROVIDER_SERVER_LEAVE_SECONDS, connection.go_away)

    def _forget(self, connection: Connection, reason: str) -> None:
        self._connections.pop(connection.name, None)
        self._row.set("connections", value=len(self._connections))
        if reason:
            self._row.add("refused_handshakes")
            self._refused(connection.peer, reason)


def _bound() -> int:
    """Raise the limit on descriptors, if possible, and return how many connections it allows."""
    wanted = limits.PROVIDER_SERVER_CONNECTIONS * _FILES_OF_ONE + limits.PROVIDER_SERVER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return limits.PROVIDER_SERVER_CONNECTIONS
    return max(1, (soft - limits.PROVIDER_SERVER_FILES) // _FILES_OF_ONE)
