"""TLS of a server: its certificate, and the authorities that its clients' certificates must be from."""

from __future__ import annotations

import ssl
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from cryptography import x509

from decoder import limits
from decoder.formats.certificates import UNREADABLE
from decoder.node import network
from decoder.node.unixsocket import ListenError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cryptography.x509 import Certificate

    from decoder.provider.server.numbers.tally import Row

_PARTIAL = ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN  # an intermediate authority can be the one that is trusted
_NO_CERTIFICATE = "PEER_DID_NOT_RETURN_A_CERTIFICATE"


class Security(NamedTuple):
    """The server's security settings: paths of files, "" for none.

    Attributes:
        certificate: the server's certificates, PEM.
        key: the private key, PEM.
        client_ca: the authorities of clients' certificates, PEM.
        insecure: whether the server may listen beyond this machine without TLS.
        client_policy: the rules about clients, TOML.
    """

    certificate: str
    key: str
    client_ca: str
    insecure: bool
    client_policy: str = ""


class Tls(NamedTuple):
    """The content of the TLS files.

    Attributes:
        context: the context for handshakes.
        authorities: the authorities that clients' certificates must be from.
        ends: the time when the first certificate of each file expires, by the file's path.
    """

    context: ssl.SSLContext
    authorities: tuple[Certificate, ...]
    ends: dict[str, datetime]


def load(security: Security) -> tuple[Tls, Sequence[str]]:
    """Load the TLS files.

    Returns:
        Their content, and their paths.

    Raises:
        ListenError: a file cannot be used; the text has OpenSSL's reason.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2"])
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.num_tickets = (
        0  # a ticket holds the client's certificate, costs half as much as the handshake, and is not used
    )
    path = security.certificate
    try:
        context.load_cert_chain(security.certificate, security.key, password="")  # or it asks the terminal
        if path := security.client_ca:
            context.load_verify_locations(path)
            context.verify_mode = ssl.CERT_REQUIRED
            context.verify_flags |= _PARTIAL
    except ssl.SSLError as error:
        both = f"--tls-cert {security.certificate} with --tls-key {security.key}"
        both = both if path == security.certificate else f"--client-ca {path}"
        raise ListenError(f"{both}: {error.reason or 'it is not PEM, or encrypted'}") from error
    except OSError as error:
        both = f"--tls-cert {security.certificate} or --tls-key {security.key}"
        both = both if path == security.certificate else f"--client-ca {path}"
        raise ListenError(f"{both}: {error.strerror}") from error
    paths = [path for path in (security.certificate, security.key, security.client_ca) if path]
    own: tuple[Certificate, ...] = ()
    with suppress(ListenError):  # OpenSSL has accepted it, and decides
        own = read_certificates(security.certificate)
    authorities = read_certificates(security.client_ca)
    ends = {
        path: min(each.not_valid_after_utc for each in certificates)
        for path, certificates in ((security.certificate, own), (security.client_ca, authorities))
        if certificates
    }
    return Tls(context, authorities, ends), paths


def read_certificates(path: str) -> tuple[Certificate, ...]:
    """Return the certificates in the first KEY_FILE_BYTES of a PEM file; none for the path "".

    Raises:
        ListenError: the file cannot be read.
    """
    if not path:
        return ()
    try:
        with open(path, "rb") as file:
            return tuple(x509.load_pem_x509_certificates(file.read(limits.KEY_FILE_BYTES)))
    except OSError as error:
        raise ListenError(f"{path}: {error.strerror}") from error
    except UNREADABLE as error:
        raise ListenError(f"{path}: it holds something other than certificates in PEM") from error


def note_expiry(tls: Tls, security: Security, row: Row, say: Callable[[str], None]) -> None:
    """Record in the metrics when certificates expire, and warn of those that expire soon."""
    for which, path in (("server", security.certificate), ("client-ca", security.client_ca)):
        end = tls.ends.get(path)
        row.set("expiry", which, value=end.timestamp() if end else 0)
        if end and (end - datetime.now(UTC)).total_seconds() < limits.CERTIFICATE_WARNING_SECONDS:
            say(f"warning: the certificate {path} expires at {end:%Y-%m-%d %H:%M} UTC")


def cause_of(error: OSError) -> str:
    """Return the reason why a handshake with a client failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the client's certificate is not accepted: {network.verdict(error)}"
    if isinstance(error, ssl.SSLError):
        if error.reason and _NO_CERTIFICATE in error.reason:
            return "the client sent no certificate"
        return f"TLS: {error.reason or type(error).__name__}"
    return error.strerror or type(error).__name__
