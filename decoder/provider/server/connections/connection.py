"""One connection: TLS with the client on one side, a socket to the gRPC server of this process on the other."""

from __future__ import annotations

import secrets
import socket
import ssl
from contextlib import suppress
from time import monotonic, time
from typing import TYPE_CHECKING, Literal

from decoder import limits
from decoder.formats.certificates import UNREADABLE
from decoder.provider.server import tls
from decoder.provider.server.clients import peer
from decoder.provider.server.connections.http2 import GO_AWAY, Frames

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from decoder.provider.server.clients.clientpolicy import Rule
    from decoder.provider.server.clients.peer import Peer

_WAIT = (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError)
_AGAIN_SECONDS = 0.01
_CHUNK_BYTES = 64 * 1024  # a TLS record has at most 16 KiB


class Connection:
    """It relays bytes in both directions, with bounded buffers. The gRPC server knows it by its name.

    Args:
        loop: runs it.
        client: the accepted socket; it is closed with this connection.
        who: the client, as far as it is known without TLS.
        context: for TLS, or None.
        server: the abstract address of the gRPC server.
        ended: called when it is closed, with the reason if the client was refused before it could call.

    Attributes:
        name: the address of the client for the gRPC server; it cannot be guessed.
        peer: the client.
        active: when the client last sent something, by time.monotonic().
        rules: for the gate: the rules about the client, and the generation of their policy.
        trust: for the front: the generation of the TLS files that decided, and whether its authority is trusted.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        client: socket.socket,
        who: Peer,
        context: ssl.SSLContext | None,
        server: str,
        ended: Callable[[Connection, str], None],
    ) -> None:
        self.name = f"ctd-decoder-{secrets.token_hex(16)}"
        self.peer = who
        self.active = monotonic()
        self.trust = (0, True)
        self.rules: tuple[int, Sequence[Rule]] | None = None
        self._loop = loop
        self._server_address = server
        self._ended = ended
        self._server: socket.socket | None = None
        self._has_spoken = self._is_finishing = self._is_closed = False
        self._going: Literal["", "wanted", "sent"] = ""
        self._expires = float("inf")
        self._frames = Frames()
        self._to_client, self._to_server = bytearray(), bytearray()
        client.setblocking(False)
        self._client = client
        if context:
            self._client = context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
        loop.add_reader(self._client.fileno(), self._shake_hands if context else self._begin)
        self._timer = loop.call_later(limits.PROVIDER_SERVER_HANDSHAKE_SECONDS, self._refuse_late)

    def expires(self) -> bool:
        """Check whether the client's certificate has expired since the handshake."""
        return self._expires < time()

    def go_away(self) -> None:
        """Ask the client to use another connection for further calls; calls that it has begun are still answered."""
        if self._going or self._is_closed:
            return
        if not self._frames.has_begun:
            # It may be new, so its first calls are still accepted here.
            self._loop.call_later(limits.PROVIDER_SERVER_LEAVE_SECONDS, self._leave_or_close)
            return
        self._going = "wanted"
        if self._frames.at_boundary:
            self._going = "sent"
            self._send_to_client(GO_AWAY)

    def close(self, reason: str = "") -> None:
        """Close both sides.

        Args:
            reason: why the client is refused, if it is.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self._timer.cancel()
        for side in (self._client, self._server):
            if side is not None:
                self._loop.remove_reader(side.fileno())
                self._loop.remove_writer(side.fileno())
        self._ended(self, reason)  # before another process can take the name
        for side in (self._client, self._server):
            if side is not None:
                side.close()

    def _leave_or_close(self) -> None:
        if self._frames.has_begun:
            self.go_away()
        else:
            self.close()

    def _refuse_late(self) -> None:
        seconds = limits.PROVIDER_SERVER_HANDSHAKE_SECONDS
        self.close(f"nothing was asked within {seconds:g} seconds" if self._has_spoken else "")

    def _shake_hands(self) -> None:
        """Continue the TLS handshake. A client that disconnects silently, as a probe does, is not a failure."""
        assert isinstance(self._client, ssl.SSLSocket)  # noqa: S101
        self._loop.remove_writer(self._client.fileno())
        if not self._has_spoken:  # a client may be gone before the first step is done
            with suppress(OSError):
                self._has_spoken = bool(socket.socket.recv(self._client, 1, socket.MSG_PEEK))
        try:
            self._client.do_handshake()
            self.peer = peer.of_tls(self.peer, self._client)
        except ssl.SSLWantReadError:
            return
        except ssl.SSLWantWriteError:
            self._loop.add_writer(self._client.fileno(), self._shake_hands)
            return
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionError):
            self.close("the client has ended the TLS handshake" if self._has_spoken else "")
            return
        except OSError as error:
            if isinstance(error, ssl.SSLCertVerificationError):
                self.peer = peer.of_refused(self.peer, self._client)
            self.close(tls.cause_of(error))
            return
        except UNREADABLE as error:
            self.close(f"the client's certificate: {error}")
            return
        self._has_spoken = True
        if self.peer.chain:
            self._expires = self.peer.chain[0].not_valid_after_utc.timestamp()
        self._loop.remove_reader(self._client.fileno())
        self._loop.add_reader(self._client.fileno(), self._begin)
        if self._client.pending():
            self._begin()

    def _begin(self) -> None:
        """Connect to the gRPC server, now that there is something for it."""
        if self._is_closed:
            return
        self._loop.remove_reader(self._client.fileno())
        server = socket.socket(socket.AF_UNIX)
        try:
            server.bind(f"\0{self.name}")
            server.setblocking(False)
            server.connect(f"\0{self._server_address}")
        except BlockingIOError:  # it has not accepted those before
            server.close()
            self._loop.call_later(_AGAIN_SECONDS, self._begin)
            return
        except OSError:
            server.close()
            self.close()
            return
        self._timer.cancel()
        self._server = server
        self._has_spoken = True
        self._loop.add_reader(self._client.fileno(), self._from_client)
        self._loop.add_reader(server.fileno(), self._from_server)
        self._from_client()

    def _from_client(self) -> None:
        assert self._server is not None  # noqa: S101
        try:
            data = self._client.recv(_CHUNK_BYTES)  # a whole record, so nothing of it stays behind in OpenSSL
        except _WAIT:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self.active = monotonic()
        self._send(self._server, self._to_server, data, self._flush_to_server)
        if not self._is_closed and len(self._to_server) > limits.PROVIDER_SERVER_BUFFER_BYTES:
            self._loop.remove_reader(self._client.fileno())

    def _from_server(self) -> None:
        assert self._server is not None  # noqa: S101
        try:
            data = self._server.recv(_CHUNK_BYTES)
        except _WAIT:
            return
        except OSError:
            data = b""
        if not data:
            self._finish()
            return
        end = self._frames.follow(data)
        if self._going == "wanted" and end >= 0:
            self._going = "sent"
            data = data[:end] + GO_AWAY + data[end:]
        self._send_to_client(data)
        if not self._is_closed and len(self._to_client) > limits.PROVIDER_SERVER_BUFFER_BYTES:
            self._loop.remove_reader(self._server.fileno())

    def _send_to_client(self, data: bytes) -> None:
        self._send(self._client, self._to_client, data, self._flush_to_client)

    def _send(self, side: socket.socket, waiting: bytearray, data: bytes, flush: Callable[[], None]) -> None:
        if waiting:
            waiting += data
            return
        try:
            sent = side.send(data)
        except _WAIT:
            sent = 0
        except OSError:
            self.close()
            return
        if sent < len(data):
            waiting += data[sent:]
            self._loop.add_writer(side.fileno(), flush)

    def _finish(self) -> None:
        """Send the rest, now that the gRPC server has closed; then wait for the client to have read it."""
        assert self._server is not None  # noqa: S101
        self._loop.remove_reader(self._server.fileno())
        self._loop.remove_reader(self._client.fileno())
        self._is_finishing = True
        self._timer = self._loop.call_later(limits.PROVIDER_SERVER_LEAVE_SECONDS, self.close)
        if not self._to_client:
            self._shut()

    def _shut(self) -> None:
        # If it were closed at once with unread bytes, the client's kernel would discard what the client has not read.
        try:
            socket.socket.shutdown(self._client, socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self._loop.add_reader(self._client.fileno(), self._discard)

    def _discard(self) -> None:
        try:
            data = socket.socket.recv(self._client, _CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()

    def _flush_to_client(self) -> None:
        if not self._flushed(self._client, self._to_client):
            return
        if self._is_finishing:
            self._shut()
        elif self._server is not None:
            self._loop.add_reader(self._server.fileno(), self._from_server)

    def _flush_to_server(self) -> None:
        if self._server is not None and self._flushed(self._server, self._to_server):
            self._loop.add_reader(self._client.fileno(), self._from_client)

    def _flushed(self, side: socket.socket, waiting: bytearray) -> bool:
        """Send buffered bytes; return whether all were sent."""
        try:
            sent = side.send(waiting)
        except _WAIT:
            return False
        except OSError:
            self.close()
            return False
        del waiting[:sent]
        if waiting:
            return False
        self._loop.remove_writer(side.fileno())
        return True
