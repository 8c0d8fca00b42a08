"""Where a keyprovider server listens, and who may connect: addresses, socket files, TLS."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, cast

import grpc
import grpc.aio

from decoder import limits
from decoder.errors import UsageError, quoted
from decoder.node import unixsocket
from decoder.node.network import is_loopback
from decoder.node.unixsocket import ListenError
from decoder.provider.server import processes

_UNIX = "unix://"


class Security(NamedTuple):
    """Who may talk to the server: PEM files, "" for none, and whether it may do without any beyond this machine."""

    certificate: str
    key: str
    client_ca: str
    insecure: bool


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
        _check_tls(security)
    if address.startswith(_UNIX):
        unixsocket.check_path(address.removeprefix(_UNIX), "--listen unix://")
        return
    host, _ = _parse_address(address)
    if not security.certificate and not security.insecure and not _is_loopback(host):
        raise UsageError(
            f"--listen {quoted(address)} can be reached from other machines, and keys would pass in clear text: "
            "it needs --tls-cert and --tls-key (and --client-ca, to let in only clients with a certificate), "
            "or --insecure"
        )


@contextmanager
def listening(
    server: grpc.aio.Server, address: str, security: Security, say: Callable[[str], None], is_shared: bool = False
) -> Iterator[str]:
    """Give the server its address, as `check` accepted it; a socket is removed at the end.

    Args:
        server: the server.
        address: where it will listen.
        security: with whom it will talk.
        say: takes what the operator should know, such as that certificates were read again.
        is_shared: whether the port is one that `reserved` holds for several processes.

    Yields:
        Where it listens, with the port that the system chose for port 0.

    Raises:
        ListenError: it cannot listen there.
    """
    if address.startswith(_UNIX):
        path = address.removeprefix(_UNIX)
        with unixsocket.claimed(path):
            _add_port(server, address, security, say)
        with unixsocket.removed_at_end(path):
            yield address
        return
    host, port = _parse_address(address)
    if host and not is_shared:
        _try(host, port, address)
    shown = f"[{host}]" if ":" in host else host
    chosen = _add_port(server, f"{shown or '[::]'}:{port}", security, say)
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
    host, port = _parse_address(address)
    addresses = _resolve(host, port) if host else _resolve("::", port)
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


def _add_port(server: grpc.aio.Server, target: str, security: Security, say: Callable[[str], None]) -> int:
    try:
        if security.certificate:
            return server.add_secure_port(target, _credentials(security, say))
        return server.add_insecure_port(target)
    except RuntimeError as error:  # the reason went to gRPC's own log
        raise ListenError(f"cannot listen on {quoted(target)}") from error


def _try(host: str, port: int, address: str) -> None:
    """Bind to an address for a moment: the error says what gRPC would not."""
    for family, kind, number, _, where in _resolve(host, port):
        try:
            with socket.socket(family, kind, number) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind(where)
        except OSError as error:
            raise ListenError(f"cannot listen on {quoted(address)}: {error.strerror}") from error


def _credentials(security: Security, say: Callable[[str], None]) -> grpc.ServerCredentials:
    """Build credentials that read the files again for a handshake after they have changed."""
    loaded = _Reloaded(security, say)
    return grpc.dynamic_ssl_server_credentials(loaded.initial, cast("Any", loaded.fetch), bool(security.client_ca))


class _Reloaded:
    """The TLS files, read again when they change; while new ones cannot be used, those before them stay."""

    def __init__(self, security: Security, say: Callable[[str], None]) -> None:
        self._security = security
        self._say = say
        self._read_at = self._signature()
        self.initial = self._configuration()

    def fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the configuration if it has changed; gRPC asks at each handshake."""
        now = self._signature()
        if now == self._read_at:
            return None
        self._read_at = now
        try:
            _check_tls(self._security)
            configuration = self._configuration()
        except (ListenError, OSError) as error:
            self._say(f"warning: the TLS files have changed and cannot be used; the earlier ones stay: {error}")
            return None
        self._say("the TLS files have changed and were read again")
        return configuration

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        security = self._security
        _warn_of_expiry(security.certificate, self._say)
        pair = (_read(security.key), _read(security.certificate))
        return grpc.ssl_server_certificate_configuration(
            [pair], _read(security.client_ca) if security.client_ca else None
        )

    def _signature(self) -> list[tuple[int, ...]]:
        signatures: list[tuple[int, ...]] = []
        for path in (self._security.certificate, self._security.key, self._security.client_ca):
            with suppress(OSError):
                status = os.stat(path)
                signatures.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
        return signatures


def _warn_of_expiry(path: str, say: Callable[[str], None]) -> None:
    from cryptography import x509

    with suppress(ValueError):  # OpenSSL accepts it, and decides
        end = x509.load_pem_x509_certificate(_read(path)).not_valid_after_utc
        if end - datetime.now(UTC) < timedelta(seconds=limits.CERTIFICATE_WARNING_SECONDS):
            say(f"warning: the certificate {path} expires at {end:%Y-%m-%d %H:%M} UTC")


def _check_tls(security: Security) -> None:
    """Load the files with OpenSSL, which says what is wrong with them; gRPC would only fail."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    path = security.certificate
    try:
        context.load_cert_chain(security.certificate, security.key, password="")  # or it asks the terminal
        if path := security.client_ca:
            context.load_verify_locations(path)
    except ssl.SSLError as error:
        both = f"{path} with {security.key}" if path == security.certificate else path
        raise ListenError(f"{both}: {error.reason or 'it is not PEM, or encrypted'}") from error
    except OSError as error:
        raise ListenError(f"{path} or {security.key}: {error.strerror}") from error


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(limits.KEY_FILE_BYTES)


def _parse_address(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535 or host.startswith("unix:"):
        raise UsageError(f"--listen {quoted(address)} is neither HOST:PORT nor unix:///path")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _is_loopback(host: str) -> bool:
    if not host:
        return False  # every address of this machine
    return all(is_loopback(where[0]) for *_, where in _resolve(host, 0))


def _resolve(host: str, port: int) -> list[tuple[int, int, int, str, Any]]:
    try:
        return cast("list[Any]", socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except (OSError, UnicodeError) as error:
        raise ListenError(f"the host {quoted(host)} is not known") from error


def is_open_to_others(address: str, security: Security) -> bool:
    """Check whether clients beyond this machine need no certificate."""
    if address.startswith(_UNIX) or security.client_ca:
        return False
    return not _is_loopback(_parse_address(address)[0])
