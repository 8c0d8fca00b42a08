"""What workers tell the zygote: of a client, a key that they parsed, a new program, that they want a keeper."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

from decoder import limits

_TAKEN, _PARSED, _OUTDATED, _KEEPER = b"t", b"p", b"o", b"k"


class Notices:
    """A channel from all workers to the zygote. What cannot be sent at once is not sent: that is gone, or hangs."""

    def __init__(self) -> None:
        self._reading, self._writing = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._reading.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor on which the zygote waits."""
        return self._reading.fileno()

    def taken(self) -> None:
        """Tell that this worker has a client."""
        self._send(_TAKEN + str(os.getpid()).encode())

    def parsed(self, key: bytes) -> None:
        """Tell of a parsed key, unless it is too long for a notice."""
        if len(key) < limits.AGENT_NOTICE_BYTES:
            self._send(_PARSED + key)

    def outdated(self) -> None:
        """Tell that the program on the disk is another one now."""
        self._send(_OUTDATED)

    def want_keeper(self, identity: bytes, connection: socket.socket) -> None:
        """Ask for our connection to be handed to the keeper for an environment.

        Args:
            identity: 32 bytes, the same for the same environment.
            connection: the keeper's end of it.
        """
        self._send(_KEEPER + identity, [connection.fileno()])

    def _send(self, notice: bytes, descriptors: list[int] | None = None) -> None:
        with suppress(OSError):
            socket.send_fds(self._writing, [notice], descriptors or [], socket.MSG_DONTWAIT)

    def read(self) -> tuple[str, bytes, list[int]] | None:
        """Return what the next notice is, its content and its descriptors; None if there is no more."""
        try:
            received = socket.recv_fds(self._reading, limits.AGENT_NOTICE_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
        notice, descriptors, _, _ = received
        names = {_TAKEN: "taken", _PARSED: "parsed", _OUTDATED: "outdated", _KEEPER: "keeper"}
        return names[notice[:1]], notice[1:], descriptors
