"""The TLS files of a server, which are read again when they change."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import grpc

from decoder import limits
from decoder.node.unixsocket import ListenError

if TYPE_CHECKING:
    from decoder.provider.server.tally import Row


class Security(NamedTuple):
    """Who may talk to the server: PEM files, "" for none, and whether it may do without any beyond this machine."""

    certificate: str
    key: str
    client_ca: str
    insecure: bool


def credentials(security: Security, say: Callable[[str], None], row: Row) -> grpc.ServerCredentials:
    """Build credentials that read the files again for a handshake after they have changed."""
    loaded = _Reloaded(security, say, row)
    return grpc.dynamic_ssl_server_credentials(loaded.initial, cast("Any", loaded.fetch), bool(security.client_ca))


class _Reloaded:
    """The TLS files, read again when they change; while new ones cannot be used, those before them stay."""

    def __init__(self, security: Security, say: Callable[[str], None], row: Row) -> None:
        self._security = security
        self._say = say
        self._row = row
        self._read_at = self._signature()
        self.initial = self._configuration()

    def fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the configuration if it has changed; gRPC asks at each handshake."""
        now = self._signature()
        if now == self._read_at:
            return None
        self._read_at = now
        try:
            check(self._security)
            configuration = self._configuration()
        except (ListenError, OSError) as error:
            self._row.set("reload_failed", "tls", value=1)
            self._say(f"warning: the TLS files have changed and cannot be used; the earlier ones stay: {error}")
            return None
        self._row.set("reload_failed", "tls", value=0)
        self._say("the TLS files have changed and were read again")
        return configuration

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        security = self._security
        self._note_expiry()
        pair = (_read(security.key), _read(security.certificate))
        return grpc.ssl_server_certificate_configuration(
            [pair], _read(security.client_ca) if security.client_ca else None
        )

    def _note_expiry(self) -> None:
        for which, path in (("server", self._security.certificate), ("client-ca", self._security.client_ca)):
            end = _earliest_end(path) if path else None
            self._row.set("expiry", which, value=end.timestamp() if end else 0)
            if end and (end - datetime.now(UTC)).total_seconds() < limits.CERTIFICATE_WARNING_SECONDS:
                self._say(f"warning: the certificate {path} expires at {end:%Y-%m-%d %H:%M} UTC")

    def _signature(self) -> list[tuple[int, ...]]:
        signatures: list[tuple[int, ...]] = []
        for path in (self._security.certificate, self._security.key, self._security.client_ca):
            with suppress(OSError):
                status = os.stat(path)
                signatures.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
        return signatures


def _earliest_end(path: str) -> datetime | None:
    """Return when the first of the certificates in a file expires."""
    from cryptography import x509

    try:
        return min(each.not_valid_after_utc for each in x509.load_pem_x509_certificates(_read(path)))
    except ValueError:
        return None  # OpenSSL accepts it, and decides


def check(security: Security) -> None:
    """Load the files with OpenSSL, which says what is wrong with them; gRPC would only fail.

    Raises:
        ListenError: one cannot be used.
    """
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
