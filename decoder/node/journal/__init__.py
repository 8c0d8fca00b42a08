"""The system journal, where operators read about layers, because containerd drops most of a decoder's standard error.

systemd-journald takes messages with fields (systemd.journal-fields(7); its datagrams are described at
https://systemd.io/JOURNAL_NATIVE_PROTOCOL/). Where it does not run, syslog takes the message without fields.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from decoder import limits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PROGRAM = "ctd-decoder"
ERROR, WARNING, INFORMATION = 3, 4, 6  # severities, RFC 5424 §6.2.1

_JOURNALD = "/run/systemd/journal/socket"
_SYSLOG = "/dev/log"
_FACILITY_USER = 1 << 3  # RFC 3164 §4.1.1


def warn(text: str, *sockets: str) -> None:
    """Log a warning; see `log`."""
    log(text, WARNING, {}, *sockets)


def log(
    text: str, severity: int, fields: Mapping[str, str] | None = None, journald: str = _JOURNALD, syslog: str = _SYSLOG
) -> bool:
    """Log one message, if journald or syslog is running and accepts it immediately.

    Args:
        text: the message; line feeds become semicolons, and it is cut off at JOURNAL_BYTES.
        severity: ERROR, WARNING or INFORMATION.
        fields: further fields for journald: names in upper case and their values.
        journald: the datagram socket of systemd-journald.
        syslog: the datagram socket of syslog, used where the first one is absent.

    Returns:
        Whether one of them accepted it.
    """
    place = next(filter(os.path.exists, (journald, syslog)), None)
    if place is None:
        return False
    import socket

    line = _cut("; ".join(part.strip() for part in text.splitlines()))
    if place == journald:
        identity = {"MESSAGE": line, "PRIORITY": str(severity), "SYSLOG_IDENTIFIER": PROGRAM}
        message = b"".join(_field(name, value) for name, value in (identity | dict(fields or {})).items())
    else:
        message = f"<{_FACILITY_USER | severity}>{PROGRAM}[{os.getpid()}]: {line}".encode()
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        connection.setblocking(False)
        connection.sendto(message, place)
        return True
    return False


def log_and_say(text: str, severity: int, say: Callable[[str], None], *sockets: str) -> None:
    """Log one message, and print it to standard error unless systemd sends that to the same journal.

    Args:
        text: the message, one line.
        severity: ERROR, WARNING or INFORMATION.
        say: prints a line to standard error.
        sockets: see `log`.
    """
    if not (log(text, severity, {}, *sockets) and _standard_error_is_logged()):
        say(text)


def _standard_error_is_logged() -> bool:
    """Check whether systemd has connected standard error to the journal: `$JOURNAL_STREAM` in systemd.exec(5)."""
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _field(name: str, value: str) -> bytes:
    """Build one field, in the form with a length, so that a value cannot add further fields."""
    data = _cut(value).encode()
    return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"


def _cut(text: str) -> str:
    data = text.encode(errors="replace")
    return text if len(data) <= limits.JOURNAL_BYTES else data[: limits.JOURNAL_BYTES - 3].decode(errors="ignore") + "…"
