"""Check the resident agent, which saves most of a small layer's time; layers are decrypted without it as well."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decoder.doctor.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from decoder.doctor.host import Host

_SOCKET = "/run/ctd-decoder/agent.sock"


def check(node: Host) -> Iterator[Finding]:
    """Connect to the agent's socket, if there is one."""
    import os
    import socket

    from decoder import limits

    path = node.place(_SOCKET)
    if not os.path.exists(path):
        yield Finding("note", "agent", f"it does not run: there is no socket {_SOCKET}")
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.settimeout(limits.PROVIDER_PROBE_SECONDS)
            connection.connect(path)
    except OSError as error:
        text = f"its socket {_SOCKET} does not answer ({error.strerror or error}): layers are decrypted without it"
        yield Finding("warning", "agent", text, "run ctd-decoder agent status")
    else:
        yield Finding("ok", "agent", f"it listens at {_SOCKET}")
