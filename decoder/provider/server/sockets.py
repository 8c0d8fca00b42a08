"""How many connections a server has, as the kernel counts them: gRPC does not tell."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

_TABLES = ("/proc/self/net/tcp", "/proc/self/net/tcp6")
_UNIX_TABLE = "/proc/self/net/unix"
_ESTABLISHED = "01"  # proc_net_tcp.rst of Linux: the fourth column, st
_CONNECTED = "03"  # proc(5), /proc/net/unix: the sixth column, St
_BYTES = 64 << 20


def count_tcp(port: int) -> int:
    """Count the connections to a TCP port of this machine."""
    ending, count = f":{port:04X}", 0
    for table in _TABLES:
        for fields in _rows(table):
            count += len(fields) > 3 and fields[3] == _ESTABLISHED and fields[1].endswith(ending)
    return count


def count_unix(path: str) -> int:
    """Count the connections to a Unix socket."""
    path = path.lstrip("/")  # gRPC binds it with further slashes
    rows = [fields for fields in _rows(_UNIX_TABLE) if len(fields) == 8]
    return sum(fields[5] == _CONNECTED and fields[7].lstrip("/") == path for fields in rows)


def _rows(table: str) -> list[list[str]]:
    with suppress(OSError), Path(table).open("rb") as file:
        return [line.split(None, 7) for line in file.read(_BYTES).decode("ascii", "replace").splitlines()[1:]]
    return []
