"""Warnings for the system journal: containerd throws standard error away when a layer decrypts."""

from __future__ import annotations

import os
from contextlib import suppress

from decoder import limits

_SOCKET = "/dev/log"
_USER_WARNING = 1 << 3 | 4  # RFC 3164 §4.1.1: facility user, severity warning


def warn(text: str, address: str = _SOCKET) -> None:
    """Send one line to the system journal or syslog, if there is one and it takes it at once.

    Args:
        text: the warning; cut off at JOURNAL_BYTES.
        address: the datagram socket.
    """
    if not os.path.exists(address):
        return
    import socket

    line = f"<{_USER_WARNING}>ctd-decoder[{os.getpid()}]: {text}".encode(errors="replace")
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.setblocking(False)
        log.sendto(line[: limits.JOURNAL_BYTES], address)
