"""The addresses of a keyprovider server, and the listening sockets of its processes."""

from __future__ import annotations

import os
import socket
import struct
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, cast

from decoder import limits
from decoder.errors import UsageError, quoted
from decoder.node import unixsocket
from decoder.node.network import is_loopback, split_host_port
from decoder.node.unixsocket import ListenError
from decoder.provider.server import tls
from decoder.provider.server.clients import clientpolicy

if TYPE_CHECKING:
    from decoder.provider.server.tls import Security

Addresses = Sequence[Any]
"""The addresses of listening sockets, as `getsockname` returns them."""

_UNIX = "unix://"
_SO_ATTACH_FILTER = 26  # Linux, socket(7); the module has no name for it
_DROP = struct.pack("HBBI", 6, 0, 0, 0)  # BPF_RET | BPF_K: keep no byte of a packet (linux/filter.h)


def check(address: str, security: Security) -> None:
    """Check that the server's options are valid, and safe without --insecure.

    Args:
        address: HOST:PORT, or unix:///path.
        security: the TLS files and the client policy, which are read.

    Raises:
        UsageError: the address is malformed, or beyond this machine without TLS, or an option needs another one.
        ListenError: a TLS file cannot be used.
        PolicyError: the client policy cannot be used.
    """
    if bool(security.certificate) != bool(security.key):
        raise UsageError("--tls-cert and --tls-key need each other")
    if security.client_ca and not security.certificate:
        raise UsageError("--client-ca needs --tls-cert and --tls-key")
    if security.certificate:
        tls.load(security)
    if security.client_policy and not security.client_ca and not is_unix(address):
        raise UsageError("--client-policy needs to know its clients: by --client-ca, or at a Unix socket")
    if security.client_policy:
        clientpolicy.load(security.client_policy)
    if is_unix(address):
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
def listening(address: str, count: int, is_for_all: bool = False) -> Iterator[tuple[str, list[list[socket.socket]]]]:
    """Open the listening sockets for a number of processes; a socket file is removed at the end.

    Args:
        address: an address that `check` has accepted; with port 0 the system chooses a port.
        count: the number of processes. Each gets its own sockets, and the kernel spreads connections over them
            (SO_REUSEPORT, socket(7)). The sockets stay open while a process is replaced.
        is_for_all: whether other users may connect to a Unix socket.

    Yields:
        The address with its port, and the sockets of each process.

    Raises:
        ListenError: the address is in use, or not an address of this machine.
    """
    if is_unix(address):
        path = address.removeprefix(_UNIX)
        with unixsocket.listening(path, socket.SOMAXCONN) as listener:
            if is_for_all:
                os.chmod(path, 0o666)  # noqa: S103 - the policy decides who may call
            yield address, [[listener]] * count
        return
    host, port = parse_address(address)
    with ExitStack() as stack:
        try:
            sockets, port = _bind(stack, host, port, count)
        except OSError as error:
            raise ListenError(f"cannot listen on {quoted(address)}: {error.strerror}") from error
        yield f"[{host}]:{port}" if ":" in host else f"{host}:{port}", sockets


def stop_arrivals(listener: socket.socket) -> None:
    """Accept no further connections; clients that have connected can still be accepted."""
    if listener.family == socket.AF_UNIX:
        shut(listener)
        return
    # A filter that drops every packet for the listening socket. Clients in the middle of a TCP handshake try again,
    # and find the port closed.
    program = array("B", _DROP)  # an array knows its address; ctypes would too, but the packages leave it out
    with suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", 1, program.buffer_info()[0]))


def shut(listener: socket.socket) -> None:
    """Stop listening, also for other processes that have the socket."""
    with suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)


def close_for_now(listeners: Sequence[socket.socket]) -> Addresses:
    """Stop listening, so that clients get connections to the sockets of other processes; return the addresses."""
    addresses = [listener.getsockname() for listener in listeners]
    for listener in listeners:
        shut(listener)
    return addresses


def open_again(listeners: Sequence[socket.socket], addresses: Addresses) -> None:
    """Listen again after `close_for_now`, whose result is given.

    Raises:
        OSError: another program has taken an address meanwhile.
    """
    try:
        for listener, address in zip(listeners, addresses, strict=True):
            if listener.getsockname() != address:  # a port that the system chose is lost with the end of listening
                listener.bind(address)
            listener.listen(limits.PROVIDER_SERVER_BACKLOG)
    except OSError:
        for listener in listeners:
            shut(listener)
        raise


def is_unix(address: str) -> bool:
    """Check whether an address is that of a Unix socket."""
    return address.startswith(_UNIX)


def parse_address(address: str, option: str = "--listen") -> tuple[str, int]:
    """Split HOST:PORT; the host is returned without brackets, and "" means all addresses of this machine.

    Raises:
        UsageError: the address has another form.
    """
    try:
        if address.startswith("unix:"):
            raise ValueError("without its two slashes")  # noqa: TRY301 - the same message
        return split_host_port(address)
    except ValueError as error:
        kinds = "neither HOST:PORT nor unix:///path" if option == "--listen" else "not HOST:PORT"
        raise UsageError(f"{option} {quoted(address)} is {kinds}") from error


def is_open_to_others(address: str, security: Security) -> bool:
    """Check whether clients on other machines can connect without a certificate."""
    if is_unix(address) or security.client_ca:
        return False
    return not _is_loopback(parse_address(address)[0])


def resolve(host: str, port: int) -> list[tuple[int, int, int, str, Any]]:
    """Return the addresses of a host; for "" the wildcard address of this machine.

    Raises:
        ListenError: the host is unknown.
    """
    if not host:
        family, everything = (socket.AF_INET6, "::") if socket.has_dualstack_ipv6() else (socket.AF_INET, "0.0.0.0")  # noqa: S104
        return [(family, socket.SOCK_STREAM, 0, "", (everything, port))]
    try:
        return cast("list[Any]", socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError) as error:
        raise ListenError(f"the host {quoted(host)} is unknown") from error


def _bind(stack: ExitStack, host: str, port: int, count: int) -> tuple[list[list[socket.socket]], int]:
    """Listen with one socket for each process and address; all have the same port."""
    addresses = resolve(host, port)
    if count > 1 and port:  # with SO_REUSEPORT, binding to the port of another server of this user would succeed
        for family, kind, number, _, where in addresses:
            with _socket(family, kind, number, not host) as trial:
                trial.bind(where)
    sockets: list[list[socket.socket]] = []
    for _ in range(count):
        own = []
        for family, kind, number, _, where in addresses:
            listener = stack.enter_context(_socket(family, kind, number, not host))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(count > 1))
            listener.bind((where[0], port or where[1], *where[2:]))
            port = int(listener.getsockname()[1])
            listener.listen(limits.PROVIDER_SERVER_BACKLOG)
            own.append(listener)
        sockets.append(own)
    return sockets, port


def _socket(family: int, kind: int, number: int, is_for_both: bool) -> socket.socket:
    made = socket.socket(family, kind, number)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not is_for_both))
    return made


def _is_loopback(host: str) -> bool:
    if not host:
        return False  # every address of this machine
    return all(is_loopback(where[0]) for *_, where in resolve(host, 0))
