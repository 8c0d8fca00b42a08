"""The identity of a client: the names in its certificate, or the user at the other end of a Unix socket."""

from __future__ import annotations

import socket
import struct
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, NamedTuple

from cryptography import x509
from cryptography.x509.oid import NameOID

from decoder import limits
from decoder.formats.certificates import UNREADABLE, is_issued_by

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable

    from cryptography.x509 import Certificate

_CREDENTIALS = struct.Struct("3i")  # struct ucred, unix(7): process, user, group


class Peer(NamedTuple):
    """A client.

    Attributes:
        address: `ipv4:ADDRESS:PORT`, `ipv6:[ADDRESS]:PORT` or `unix:`.
        names: `uri:…` and `dns:…` of its certificate, or `cn:…` if there is no alternative name; `uid:…` and `gid:…`
            at a Unix socket. Empty for a client without a certificate.
        chain: its certificate, followed by its verified issuers up to a trusted one.
        claimed: the names in a certificate that was refused. They are not verified, and only for the audit.
    """

    address: str
    names: tuple[str, ...] = ()
    chain: tuple[Certificate, ...] = ()
    claimed: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """Its names, for the audit."""
        return ", ".join(self.names)

    def is_issued_by(self, authorities: Iterable[Certificate]) -> bool:
        """Check whether one of these authorities is in the verified chain, or has issued a certificate of it."""
        return any(
            certificate == authority or is_issued_by(certificate, authority)
            for authority in authorities
            for certificate in self.chain
        )


def of_tls(before: Peer, connection: ssl.SSLSocket) -> Peer:
    """Read the certificate of a client after a handshake that has verified it.

    Args:
        before: the client, as known before TLS.
        connection: the connection.

    Raises:
        Exception: one of UNREADABLE: the certificate cannot be parsed, or has more than CLIENT_NAMES.
    """
    ders = _verified_chain(connection)
    if not ders:
        return before
    own = x509.load_der_x509_certificate(ders[0])
    return Peer(before.address, (*before.names, *_names(own)), (own, *map(_authority, ders[1:])))


def of_refused(before: Peer, connection: ssl.SSLSocket) -> Peer:
    """Read the names in a certificate that OpenSSL has refused, so that the audit has more than an address.

    OpenSSL keeps the chain that it could not verify. The verdict is OpenSSL's; nothing is decided here.
    """
    try:
        ders = _chain(connection)
        return before._replace(claimed=_names(x509.load_der_x509_certificate(ders[0]))) if ders else before
    except UNREADABLE:
        return before


def of_unix(connection: socket.socket) -> Peer:
    """Return the user who has connected to a Unix socket, as the kernel knows it."""
    packed = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, user, group = _CREDENTIALS.unpack(packed)
    return Peer(f"unix:pid={process}", (f"uid:{user}", f"gid:{group}"))


def address_of(name: tuple[Any, ...]) -> str:
    """Return the address of a TCP client in gRPC's form."""
    host = ip_address(name[0].partition("%")[0])
    mapped = getattr(host, "ipv4_mapped", None)
    if mapped or host.version == 4:
        return f"ipv4:{mapped or host}:{name[1]}"
    return f"ipv6:[{host}]:{name[1]}"


@lru_cache(maxsize=64)
def _authority(der: bytes) -> Certificate:
    """Parse the certificate of an authority. The result is cached, because clients share a few authorities."""
    return x509.load_der_x509_certificate(der)


def _verified_chain(connection: ssl.SSLSocket) -> list[bytes]:
    """Return the chain that OpenSSL has verified, in DER, the client's own certificate first."""
    return [] if connection.getpeercert(binary_form=True) is None else _chain(connection)


def _chain(connection: ssl.SSLSocket) -> list[bytes]:
    if hasattr(connection, "get_verified_chain"):  # Python 3.13
        return list(connection.get_verified_chain() or [])
    # In earlier versions only the wrapped object has the method; its argument is PEM or DER (_ssl.ENCODING_DER).
    return [each.public_bytes(2) for each in connection._sslobj.get_verified_chain()]  # type: ignore[attr-defined]  # noqa: SLF001


def _names(certificate: Certificate) -> tuple[str, ...]:
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return tuple(f"cn:{each.value!s}" for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME))[
            :1
        ]
    if len(list(alternatives)) > limits.CLIENT_NAMES:
        raise ValueError(f"its certificate has more than {limits.CLIENT_NAMES} names")
    uris = alternatives.get_values_for_type(x509.UniformResourceIdentifier)
    dns = alternatives.get_values_for_type(x509.DNSName)
    return (*(f"uri:{each}" for each in uris), *(f"dns:{each.lower()}" for each in dns))
