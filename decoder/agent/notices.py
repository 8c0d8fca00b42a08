"""Notices from workers to the zygote: about their client, parsed keys, an updated program, and keepers they need."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from decoder import limits

if TYPE_CHECKING:
    from typing import Literal

    Kind = Literal[
        "taken", "served", "away", "returned", "parsed", "imported", "outdated", "keeper", "status", "certificate"
    ]

_KINDS: dict[bytes, Kind] = {
    b"t": "taken",
    b"s": "served",
    b"a": "away",
    b"r": "returned",
    b"p": "parsed",
    b"i": "imported",
    b"o": "outdated",
    b"k": "keeper",
    b"q": "status",
    b"c": "certificate",
}
_TYPES = {kind: letter for letter, kind in _KINDS.items()}


class Notices:
    """A channel from all workers to the zygote.

    A notice that cannot be sent at once is dropped: the zygote is gone or hangs then, and no layer waits for it.

    Args:
        reading: the descriptor of the zygote's end; -1 in a process that only sends.
        writing: the descriptor of the workers' end; by default both ends are created.
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
        """Report that this worker has begun to decrypt its client's layer."""
        self._send("served", str(os.getpid()).encode())

    def sent_away(self, reason: str) -> None:
        """Report that this worker's client will decrypt without it, and the property in which the two differ."""
        self._send("away", f"{os.getpid()} {reason}".encode(errors="replace"))

    def returned(self) -> None:
        """Report that this worker is done with its client, and waits for another one."""
        self._send("returned", str(os.getpid()).encode())

    def parsed(self, key: bytes) -> None:
        """Send a parsed key as `ParsedKeys.add` takes it, unless it is too long for a notice."""
        if len(key) < limits.AGENT_NOTICE_BYTES:
            self._send("parsed", key)

    def imported(self, modules: list[str]) -> None:
        """Report the modules of `preloading.ON_DEMAND` that this worker had to import."""
        self._send("imported", " ".join(modules).encode())

    def certificate(self, path: str) -> None:
        """Report the file with the certificate that keyproviders see."""
        self._send("certificate", os.fsencode(path))

    def outdated(self) -> None:
        """Report that the program on the disk was replaced."""
        self._send("outdated")

    def want_keeper(self, identity: bytes, connection: socket.socket) -> None:
        """Ask the zygote to hand a connection to the keeper for this worker's environment.

        Args:
            identity: 32 bytes that identify the environment and current directory.
            connection: the end of it that the keeper gets.
        """
        self._send("keeper", identity, connection)

    def want_status(self, connection: socket.socket) -> None:
        """Ask the zygote to send the agent's status to a client."""
        self._send("status", str(os.getpid()).encode(), connection)

    def _send(self, kind: Kind, content: bytes = b"", connection: socket.socket | None = None) -> None:
        descriptors = [connection.fileno()] if connection else []
        with suppress(OSError):
            socket.send_fds(self._writing, [_TYPES[kind] + content], descriptors, socket.MSG_DONTWAIT)

    def read(self) -> tuple[Kind, bytes, list[int]] | None:
        """Return the next notice: its kind, content and descriptors. Return None if none is waiting."""
        try:
            received = socket.recv_fds(self._reading, limits.AGENT_NOTICE_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
        notice, descriptors, _, _ = received
        return _KINDS[notice[:1]], notice[1:], descriptors
