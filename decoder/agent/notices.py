"""Notices from workers to the zygote: about their client, parsed keys, a new program, and a keeper that they need."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from decoder import limits

if TYPE_CHECKING:
    from typing import Literal

    Kind = Literal["taken", "served", "away", "parsed", "imported", "outdated", "keeper", "status"]

_KINDS: dict[bytes, Kind] = {
    b"t": "taken",
    b"s": "served",
    b"a": "away",
    b"p": "parsed",
    b"i": "imported",
    b"o": "outdated",
    b"k": "keeper",
    b"q": "status",
}
_TYPES = {kind: letter for letter, kind in _KINDS.items()}


class Notices:
    """A channel from all workers to the zygote. What cannot be sent at once is not sent: that is gone, or hangs.

    Args:
        reading: the descriptor of the zygote's end; -1 for who has none.
        writing: that of the workers' end; by default both are made.
    """

    def __init__(self, reading: int = -1, writing: int = -1) -> None:
        if writing < 0:
            reading, writing = (end.detach() for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        self._writing = socket.socket(fileno=writing)
        if reading >= 0:
            self._reading = socket.socket(fileno=reading)
            self._reading.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor on which the zygote waits."""
        return self._reading.fileno()

    def taken(self) -> None:
        """Report that this worker has a client."""
        self._send("taken", str(os.getpid()).encode())

    def served(self) -> None:
        """Report that this worker decrypts the layer of its client."""
        self._send("served", str(os.getpid()).encode())

    def sent_away(self, reason: str) -> None:
        """Report that this worker's client will decrypt by itself, and the property in which it differs."""
        self._send("away", f"{os.getpid()} {reason}".encode(errors="replace"))

    def parsed(self, key: bytes) -> None:
        """Pass on a parsed key, unless it is too long for a notice."""
        if len(key) < limits.AGENT_NOTICE_BYTES:
            self._send("parsed", key)

    def imported(self, modules: list[str]) -> None:
        """Report the modules of ON_DEMAND that this worker had to import."""
        self._send("imported", " ".join(modules).encode())

    def outdated(self) -> None:
        """Report that the program on the disk was replaced."""
        self._send("outdated")

    def want_keeper(self, identity: bytes, connection: socket.socket) -> None:
        """Ask for a connection to be handed to the keeper for an environment.

        Args:
            identity: 32 bytes, the same for the same environment.
            connection: the keeper's end of it.
        """
        self._send("keeper", identity, connection)

    def want_status(self, connection: socket.socket) -> None:
        """Ask for the agent's status to be sent to a client."""
        self._send("status", str(os.getpid()).encode(), connection)

    def _send(self, kind: Kind, content: bytes = b"", connection: socket.socket | None = None) -> None:
        descriptors = [connection.fileno()] if connection else []
        with suppress(OSError):
            socket.send_fds(self._writing, [_TYPES[kind] + content], descriptors, socket.MSG_DONTWAIT)

    def read(self) -> tuple[Kind, bytes, list[int]] | None:
        """Return the kind of the next notice, its content and its descriptors; None if there is none."""
        try:
            received = socket.recv_fds(self._reading, limits.AGENT_NOTICE_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
        notice, descriptors, _, _ = received
        return _KINDS[notice[:1]], notice[1:], descriptors
