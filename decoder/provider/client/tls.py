"""TLS with a gRPC keyprovider: the trusted certificates, and the reason of a failure, which grpcio does not report."""

from __future__ import annotations

import os
import socket
import ssl
import time
from typing import TYPE_CHECKING

from decoder import limits
from decoder.errors import quoted
from decoder.node import journal, network
from decoder.node.authorities import trust_system
from decoder.node.filestate import state_of
from decoder.provider.errors import EndedError, ProviderError
from decoder.provider.optionfile import read_option_file

if TYPE_CHECKING:
    import grpc

    from decoder.provider.client.config import GrpcTls

_DEFAULT_PORT = 443
_UNIX_NAME = "localhost"  # the name that gRPC expects in a certificate over a Unix socket
_NAMES = (62, 64)  # OpenSSL's numbers for certificates of other names (X509_V_ERR_…)


class Trust:
    """The certificates to accept from a server, and our own certificate.

    With insecure-skip-verify, the server's certificate is fetched first, and then the call accepts only that one. So an
    attacker on the network can show another certificate. An expired one is refused even then, because grpcio has no
    setting for that.

    Args:
        address: the server's address, as in the configuration.
        tls: the TLS settings of the configuration.
        deadline: the end of the call's time, by time.monotonic().

    Attributes:
        channel: credentials and options for a channel of grpcio.

    Raises:
        ProviderError: a file cannot be used, or the server's certificate cannot be fetched.
    """

    def __init__(self, address: str, tls: GrpcTls, deadline: float) -> None:
        import grpc

        self._address, self._deadline = address, deadline
        self._context, roots, chain, key = _load(tls)
        _warn_of_expiry(tls.cert_file, chain)
        name = tls.server_name
        if tls.insecure_skip_verify:
            certificate = self._fetch_certificate()
            roots = ssl.DER_cert_to_PEM_cert(certificate).encode()
            name = _name_in(certificate)
        elif address.startswith("unix:"):
            name = name or _UNIX_NAME
        self._name = name or _endpoint(address)[0]
        options = [("grpc.ssl_target_name_override", name)] if name else []
        credentials: grpc.ChannelCredentials = grpc.ssl_channel_credentials(roots, key, chain)
        self.channel = (credentials, options)

    def check(self) -> None:
        """Try a handshake without grpcio.

        Raises:
            ProviderError: the handshake fails; the text says why. If nothing is raised, TLS is not the cause.
            EndedError: the server ended the connection right after the handshake.
        """
        try:
            connection = self._connect()
        except ssl.SSLCertVerificationError as error:
            raise ProviderError(self._verdict(error)) from error
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return  # a server with too many connections closes them in this way
        except ssl.SSLError as error:
            raise ProviderError(f"TLS with it failed: {network.tls_reason(error)}") from error
        except OSError:
            return
        try:
            with connection:
                # In TLS 1.3 a server refuses our certificate after the handshake (RFC 8446 §4.4.2.4). If it does not,
                # it sends its HTTP/2 settings.
                if connection.recv(1):
                    return
        except ssl.SSLError as error:
            raise ProviderError(f"TLS with it failed: {network.tls_reason(error)}") from error
        except ConnectionResetError:
            pass  # the same refusal, without the alert
        except OSError:
            return
        raise EndedError(
            "it ends the connection after the TLS handshake; it may require a client certificate that it trusts "
            "(cert-file, key-file)"
        )

    def _fetch_certificate(self) -> bytes:
        try:
            with self._connect() as connection:
                return connection.getpeercert(binary_form=True) or b""
        except ssl.SSLError as error:
            raise ProviderError(f"TLS with it failed: {network.tls_reason(error)}") from error
        except TimeoutError as error:
            raise ProviderError("it cannot be reached: timed out") from error
        except OSError as error:
            raise ProviderError(f"it cannot be reached: {error.strerror or type(error).__name__}") from error

    def _connect(self) -> ssl.SSLSocket:
        seconds = min(limits.PROVIDER_PROBE_SECONDS, max(0.001, self._deadline - time.monotonic()))
        host, port = _endpoint(self._address)
        if port is None:
            plain = socket.socket(socket.AF_UNIX)
            plain.settimeout(seconds)
            plain.connect(host)
        else:
            plain = socket.create_connection((host, port), seconds)
        try:
            return self._context.wrap_socket(plain, server_hostname=getattr(self, "_name", "") or None)
        except BaseException:
            plain.close()
            raise

    def _verdict(self, error: ssl.SSLCertVerificationError) -> str:
        hint = "set server-name to the name in it" if error.verify_code in _NAMES else "grpc-tls: root-ca-file"
        return f"its certificate is not accepted for {quoted(self._name)}: {network.verdict(error)} ({hint})"


def signatures(tls: GrpcTls) -> tuple[object, ...]:
    """Return a value that changes when one of the files changes."""
    return tuple(state_of(path) for path in (tls.root_ca_file, tls.cert_file, tls.key_file))


def _load(tls: GrpcTls) -> tuple[ssl.SSLContext, bytes | None, bytes | None, bytes | None]:
    """Read the files. Repeat if they change meanwhile, because then the key may not match its certificate."""
    pauses = iter(limits.REPLACED_FILES_PAUSES_SECONDS)
    while True:
        pause = next(pauses, None)
        before = signatures(tls)
        try:
            context = _context(tls)
            roots = _read(tls.root_ca_file or os.environ.get("SSL_CERT_FILE", ""), "root-ca-file")
            chain, key = _read(tls.cert_file, "cert-file"), _read(tls.key_file, "key-file")
        except ProviderError:
            if pause is None or not tls.cert_file:
                raise
        else:
            if pause is None or signatures(tls) == before:
                return context, roots, chain, key
        time.sleep(pause)


def _warn_of_expiry(path: str, chain: bytes | None) -> None:
    """Warn in the journal if our certificate expires soon."""
    if not chain:
        return
    from datetime import UTC, datetime

    from decoder.formats.certificates import UNREADABLE
    from decoder.formats.expiry import earliest_end

    try:
        end = earliest_end(chain)
    except UNREADABLE:
        return  # OpenSSL has accepted it
    if (end - datetime.now(UTC)).total_seconds() < limits.CERTIFICATE_WARNING_SECONDS:
        journal.warn(f"the certificate {quoted(path)} for keyproviders expires at {end:%Y-%m-%d %H:%M} UTC")


def _context(tls: GrpcTls) -> ssl.SSLContext:
    """Build a context that trusts the same certificates as grpcio; unlike grpcio it reports problems with the files."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    if tls.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif tls.root_ca_file:
        pem = _read(tls.root_ca_file, "root-ca-file") or b""
        try:
            context.load_verify_locations(cadata=pem.decode("ascii", "replace"))
        except (ssl.SSLError, ValueError) as error:
            raise ProviderError(f"its root-ca-file {quoted(tls.root_ca_file)} holds no PEM certificate") from error
    else:
        trust_system(context)
    if tls.cert_file:
        _read(tls.cert_file, "cert-file")
        _read(tls.key_file, "key-file")
        try:
            # Without the empty password, OpenSSL would ask for one at a terminal.
            context.load_cert_chain(tls.cert_file, tls.key_file, password=lambda: b"")
        except (ssl.SSLError, OSError, ValueError) as error:
            names = f"cert-file {quoted(tls.cert_file)} and its key-file {quoted(tls.key_file)}"
            raise ProviderError(f"its {names} are not a matching certificate and key in PEM") from error
    return context


def _read(path: str, field: str) -> bytes | None:
    return read_option_file(path, f"its {field}") if path else None


def _endpoint(address: str) -> tuple[str, int | None]:
    """Split a gRPC target into host and port; the path of a Unix socket has no port."""
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        return (path[2:] if path.startswith("//") else path), None
    for scheme in ("dns:///", "dns:", "ipv4:", "ipv6:", "passthrough:///"):
        address = address.removeprefix(scheme)
    host, colon, port = address.rpartition(":")
    if not colon or address.endswith("]"):
        host, port = address, str(_DEFAULT_PORT)
    if not port.isdecimal() or len(port) > 5 or int(port) > 0xFFFF:
        raise ProviderError(f"its address {quoted(address)} has a port that is not a number up to 65535")
    return host.strip("[]"), int(port)


def _name_in(certificate: bytes) -> str:
    """Return a name that a certificate is valid for, so that the check of names passes."""
    from datetime import UTC, datetime

    from cryptography import x509
    from cryptography.x509.oid import NameOID

    from decoder.formats.certificates import UNREADABLE

    try:
        parsed = x509.load_der_x509_certificate(certificate)
        if parsed.not_valid_after_utc < datetime.now(UTC):
            raise ProviderError("its certificate has expired; insecure-skip-verify does not accept that")
        names = [str(name.value) for name in parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        alternatives = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = [*alternatives.get_values_for_type(x509.DNSName), *map(str, _addresses(alternatives)), *names]
    except x509.ExtensionNotFound:
        pass
    except UNREADABLE as error:
        raise ProviderError("its certificate cannot be read") from error
    if not names:
        raise ProviderError("its certificate has no name")
    return names[0].replace("*", "any", 1)


def _addresses(alternatives: object) -> list[object]:
    from cryptography import x509

    assert isinstance(alternatives, x509.SubjectAlternativeName)  # noqa: S101
    return list(alternatives.get_values_for_type(x509.IPAddress))
