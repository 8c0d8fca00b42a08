"""The system journal or syslog: containerd throws standard error away when a layer decrypts."""

from __future__ import annotations

import os
from contextlib import suppress

from decoder import limits

_SOCKET = "/dev/log"
_FACILITY_USER = 1 << 3  # RFC 3164 §4.1.1
WARNING, INFORMATION = 4, 6  # severities, likewise


def warn(text: str, address: str = _SOCKET) -> None:
    """Log a warning.

    Args:
        text: the warning; cut off at JOURNAL_BYTES.
        address: the datagram socket.
    """
    log(text, WARNING, address)


def log(text: str, severity: int, address: str = _SOCKET) -> None:
    """Send one line to the system journal or syslog, if there is one and it takes it at once.

    Args:
        text: the line; cut off at JOURNAL_BYTES.
        severity: WARNING or INFORMATION.
        address: the datagram socket.
    """
    if not os.path.exists(address):
        return
    import socket

    line = f"<{_FACILITY_USER | severity}>ctd-decoder[{os.getpid()}]: {text}".encode(errors="replace")
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.setblocking(False)
        syslog.sendto(line[: limits.JOURNAL_BYTES], address)
