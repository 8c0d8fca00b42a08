"""One connection: TLS with the client on one side, and a socket to this process's gRPC server on the other."""

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
from decoder.provider.server.connections.http2 import GO_AWAY, PREFACE_BYTES, Frames

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from decoder.provider.server.clients.clientpolicy import Rule
    from decoder.provider.server.clients.peer import Peer

_WAIT = (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError)


class Connection:
    """A connection that relays bytes between a client and the gRPC server, with bounded buffers.

    Args:
        loop: the event loop that runs it.
        client: the accepted socket; it is closed with this connection.
        who: the client, as known before TLS.
        context: the context for TLS, or None.
        server: the abstract address of the gRPC server.
        ended: is called when the connection is closed, with the reason if the client was refused before it could call.

    Attributes:
        name: the client's address, as the gRPC server sees it; it cannot be guessed.
        peer: the client.
        active: when the client last sent something, by time.monotonic().
        rules: the generation of the client policy, and its rules that name the client; set by the gate.
        trust: the generation of the TLS files, and whether the client's authority is in them; set by the front.
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
        self._going: Literal["", "later", "wanted", "sent"] = ""
        self._expires = float("inf")
        self._frames, self._client_frames = Frames(), Frames(PREFACE_BYTES)
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
        """Ask the client to use another connection for further calls; calls that it has begun are still answered.

        A client without a call gets time for its first one. It has connected in order to send it, but must not send it
        after GOAWAY (RFC 9113 §6.8). gRPC's clients even lose a call that waits for the server's SETTINGS then.
        """
        if self._going or self._is_closed:
            return
        if self._frames.has_begun and self._client_frames.has_headers:
            self._ask_to_leave()
            return
        self._going = "later"
        self._loop.call_later(limits.PROVIDER_SERVER_LEAVE_SECONDS, self._leave_or_close)

    def close(self, reason: str = "") -> None:
        """Close both sides.

        Args:
            reason: the reason if the client is refused, otherwise "".
        """
        if self._is_closed:
            return
        self._is_closed = True
        self._timer.cancel()
        for side in (self._client, self._server):
            if side is not None:
                self._loop.remove_reader(side.fileno())
                self._loop.remove_writer(side.fileno())
        self._ended(self, reason)  # before the sockets close, because then another process could take the name
        for side in (self._client, self._server):
            if side is not None:
                side.close()

    def _leave_or_close(self) -> None:
        if self._frames.has_begun and not self._is_closed:
            self._ask_to_leave()
        else:
            self.close()

    def _ask_to_leave(self) -> None:
        self._going = "wanted"
        if self._frames.at_boundary:
            self._going = "sent"
            self._send_to_client(GO_AWAY)

    def _refuse_late(self) -> None:
        seconds = limits.PROVIDER_SERVER_HANDSHAKE_SECONDS
        self.close(f"the client sent no request within {seconds:g} seconds" if self._has_spoken else "")

    def _shake_hands(self) -> None:
        """Continue the TLS handshake. A client that disconnects without a byte, as probes do, is not a failure."""
        assert isinstance(self._client, ssl.SSLSocket)  # noqa: S101
        self._loop.remove_writer(self._client.fileno())
        if not self._has_spoken:  # look now, because the client may be gone before the first step is done
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
        """Connect to the gRPC server, now that the client has sent something."""
        if self._is_closed:
            return
        self._loop.remove_reader(self._client.fileno())
        try:
            server = socket.socket(socket.AF_UNIX)
        except OSError:  # no free descriptor; the timer of the handshake bounds the wait
            self._loop.call_later(limits.PROVIDER_SERVER_AGAIN_SECONDS, self._begin)
            return
        try:
            server.bind(f"\0{self.name}")  # gRPC sees this name as the client's address, so `Front.find` finds it
            server.setblocking(False)
            server.connect(f"\0{self._server_address}")
        except BlockingIOError:  # its queue of connections is full
            server.close()
            self._loop.call_later(limits.PROVIDER_SERVER_AGAIN_SECONDS, self._begin)
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
            data = self._client.recv(limits.READ_BYTES)  # a whole TLS record, so that OpenSSL holds nothing back
        except _WAIT:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self.active = monotonic()
        if not self._client_frames.has_headers:
            self._client_frames.follow(data)
        self._send(self._server, self._to_server, data, self._flush_to_server)
        if not self._is_closed and len(self._to_server) > limits.PROVIDER_SERVER_BUFFER_BYTES:
            self._loop.remove_reader(self._client.fileno())

    def _from_server(self) -> None:
        assert self._server is not None  # noqa: S101
        try:
            data = self._server.recv(limits.READ_BYTES)
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
        """Send the rest, now that the gRPC server has closed its side; then wait until the client has read it."""
        assert self._server is not None  # noqa: S101
        self._loop.remove_reader(self._server.fileno())
        self._loop.remove_reader(self._client.fileno())
        self._is_finishing = True
        self._timer = self._loop.call_later(limits.PROVIDER_SERVER_LEAVE_SECONDS, self.close)
        if not self._to_client:
            self._shut()

    def _shut(self) -> None:
        # If this closed at once while bytes of the client are unread, the kernel would send a reset, and the client
        # would lose data that it has not read yet.
        try:
            socket.socket.shutdown(self._client, socket.SHUT_WR)
        except OSError:
            self.close()
            return
        self._loop.add_reader(self._client.fileno(), self._discard)

    def _discard(self) -> None:
        try:
            data = socket.socket.recv(self._client, limits.READ_BYTES)
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
