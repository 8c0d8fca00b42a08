"""`python -m bench.fleet.connections`: the memory of a server with more connections than it accepts, as Markdown."""

from __future__ import annotations

import os
import resource
import socket
import ssl
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.costs import pss
from bench.fleet.server import HOST, Server, serving
from bench.programs import MIB, RunError

_RAW, _TLS = 12_000, 4_500
_PROCESSES = 2
# The connection preface of HTTP/2 and an empty SETTINGS frame (RFC 9113 §3.4).
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0)) + bytes(4)
_SETTLE_SECONDS = 3
_CONNECT_SECONDS = 30


def main() -> int:
    """Measure, and return the exit status: 1 if the server does not start or does not stay."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print("| connections | accepted and open | memory of all processes, MiB |\n| --- | --- | --- |")
    try:
        with TemporaryDirectory() as name:
            directory = Path(name)
            key = directory / "image.key"
            key.touch(0o600)
            key.write_bytes(os.urandom(32))
            with serving(directory, _PROCESSES, ["--provider", "local", "--key", str(key)]) as server:
                _measure(server)
    except (OSError, RunError) as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return 1
    return 0


def _measure(server: Server) -> None:
    _print_row("none", 0, server)
    raw = [each for _ in range(_RAW) if (each := _connect(server, None))]
    time.sleep(_SETTLE_SECONDS)
    _print_row(f"{_RAW} that say nothing", _count(raw), server)
    for each in raw:
        each.close()
    time.sleep(_SETTLE_SECONDS)
    context = ssl.create_default_context(cafile=str(server.directory / "ca.pem"))
    context.load_cert_chain(server.directory / "client.pem", server.directory / "client.key")
    context.set_alpn_protocols(["h2"])
    idle = [each for _ in range(_TLS) if (each := _connect(server, context))]
    time.sleep(_SETTLE_SECONDS)
    _print_row(f"{_TLS} idle, mutual TLS", _count(idle), server)
    for each in idle:
        each.close()


def _connect(server: Server, context: ssl.SSLContext | None) -> socket.socket | None:
    host, _, port = server.target.rpartition(":")
    with suppress(OSError):
        connection = socket.create_connection((host, int(port)), _CONNECT_SECONDS)
        if context:
            connection = context.wrap_socket(connection, server_hostname=HOST)
            connection.sendall(_PREFACE)
        return connection
    return None


def _count(connections: list[socket.socket]) -> int:
    """Count those that the server has not closed."""
    count = 0
    for connection in connections:
        connection.setblocking(False)
        try:
            count += bool(connection.recv(1 << 16))
        except (BlockingIOError, ssl.SSLWantReadError):
            count += 1
        except OSError:
            pass
    return count


def _print_row(what: str, count: int, server: Server) -> None:
    """Print what all processes take; memory that they share counts once (proc(5), Pss)."""
    parent = int(Path(f"/proc/{server.processes[0]}/stat").read_text().rpartition(")")[2].split()[1])
    print(f"| {what} | {count} | {pss((parent, *server.processes)) / MIB:.0f} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
