"""Where a keyprovider server listens, and who may connect: addresses, socket files, TLS."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, cast

from decoder.errors import UsageError, quoted
from decoder.node import unixsocket
from decoder.node.network import is_loopback
from decoder.node.unixsocket import ListenError
from decoder.provider.server import processes, tls

if TYPE_CHECKING:
    import grpc.aio

    from decoder.provider.server.tally import Row
    from decoder.provider.server.tls import Security

_UNIX = "unix://"


def check(address: str, security: Security) -> None:
    """Refuse what would be unsafe, or cannot work.

    Args:
        address: HOST:PORT, or unix:///path.
        security: the TLS files, which are read.

    Raises:
        UsageError: the address is malformed, or beyond this machine without TLS, or a TLS file lacks its other.
        ListenError: a TLS file cannot be used.
    """
    if bool(security.certificate) != bool(security.key):
        raise UsageError("--tls-cert and --tls-key need each other")
    if security.client_ca and not security.certificate:
        raise UsageError("--client-ca needs --tls-cert and --tls-key")
    if security.certificate:
        tls.check(security)
    if address.startswith(_UNIX):
        unixsocket.check_path(address.removeprefix(_UNIX), "--listen unix://")
        return
    host, _ = parse_address(address)
    if not security.certificate and not security.insecure and not _is_loopback(host):
        raise UsageError(
            f"--listen {quoted(address)} can be reached from other machines, and keys would pass in clear text: "
            "it needs --tls-cert and --tls-key (and --client-ca, to let in only clients with a certificate), "
            "or --insecure"
        )


@contextmanager
def listening(
    server: grpc.aio.Server,
    address: str,
    security: Security,
    say: Callable[[str], None],
    row: Row,
    is_shared: bool = False,
) -> Iterator[str]:
    """Give the server its address, as `check` accepted it; a socket is removed at the end.

    Args:
        server: the server.
        address: where it will listen.
        security: with whom it will talk.
        say: takes what the operator should know, such as that certificates were read again.
        row: gets when the certificates expire.
        is_shared: whether the port is one that `reserved` holds for several processes.

    Yields:
        Where it listens, with the port that the system chose for port 0.

    Raises:
        ListenError: it cannot listen there.
    """
    if address.startswith(_UNIX):
        path = address.removeprefix(_UNIX)
        with unixsocket.claimed(path):
            _add_port(server, address, security, say, row)
        with unixsocket.removed_at_end(path):
            yield address
        return
    host, port = parse_address(address)
    if host and not is_shared:
        _try(host, port, address)
    shown = f"[{host}]" if ":" in host else host
    chosen = _add_port(server, f"{shown or '[::]'}:{port}", security, say, row)
    yield f"{shown}:{chosen}"


@contextmanager
def reserved(address: str) -> Iterator[str]:
    """Hold a TCP port for several processes that listen on it, so that no other program takes it.

    Args:
        address: HOST:PORT; port 0 lets the system choose one.

    Yields:
        The address, with the port.

    Raises:
        ListenError: the port is in use, or the host is not this machine.
    """
    host, port = parse_address(address)
    addresses = resolve(host, port) if host else resolve("::", port)
    if host:
        _try(host, port, address)
    with ExitStack() as stack:
        try:
            chosen = processes.reserve(stack, addresses)
        except OSError as error:
            raise ListenError(f"cannot listen on {quoted(address)}: {error.strerror}") from error
        yield f"[{host}]:{chosen}" if ":" in host else f"{host}:{chosen}"


def is_unix(address: str) -> bool:
    """Check whether an address is that of a Unix socket."""
    return address.startswith(_UNIX)


def _add_port(server: grpc.aio.Server, target: str, security: Security, say: Callable[[str], None], row: Row) -> int:
    try:
        if security.certificate:
            return server.add_secure_port(target, tls.credentials(security, say, row))
        return server.add_insecure_port(target)
    except RuntimeError as error:  # the reason went to gRPC's own log
        raise ListenError(f"cannot listen on {quoted(target)}") from error


def _try(host: str, port: int, address: str) -> None:
    """Bind to an address for a moment: the error says what gRPC would not."""
    for family, kind, number, _, where in resolve(host, port):
        try:
            with socket.socket(family, kind, number) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind(where)
        except OSError as error:
            raise ListenError(f"cannot listen on {quoted(address)}: {error.strerror}") from error


def parse_address(address: str, option: str = "--listen") -> tuple[str, int]:
    """Split HOST:PORT; the host is without brackets, and "" stands for all addresses of this machine.

    Raises:
        UsageError: it is something else.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535 or host.startswith("unix:"):
        kinds = "neither HOST:PORT nor unix:///path" if option == "--listen" else "not HOST:PORT"
        raise UsageError(f"{option} {quoted(address)} is {kinds}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _is_loopback(host: str) -> bool:
    if not host:
        return False  # every address of this machine
    return all(is_loopback(where[0]) for *_, where in resolve(host, 0))


def resolve(host: str, port: int) -> list[tuple[int, int, int, str, Any]]:
    """Look up the addresses of a host.

    Raises:
        ListenError: there is none.
    """
    try:
        return cast("list[Any]", socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError) as error:
        raise ListenError(f"the host {quoted(host)} is not known") from error


def is_open_to_others(address: str, security: Security) -> bool:
    """Check whether clients beyond this machine need no certificate."""
    if address.startswith(_UNIX) or security.client_ca:
        return False
    return not _is_loopback(parse_address(address)[0])
