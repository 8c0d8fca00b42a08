"""X.509 certificates for TLS between a test and the program."""

from __future__ import annotations

import datetime
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = datetime.timedelta(days=1)


class Issued(NamedTuple):
    """A certificate and its private key, both in PEM."""

    certificate: bytes
    key: bytes

    def write(self, path: Path) -> Path:
        """Write the certificate to a path, and its key beside it, with the suffix `.key`."""
        path.write_bytes(self.certificate)
        key_of(path).write_bytes(self.key)
        return path


def key_of(certificate: Path) -> Path:
    """Return where the private key of a certificate is."""
    return certificate.with_suffix(".key")


def read(certificate: Path) -> Issued:
    """Read what `Issued.write` wrote."""
    return Issued(certificate.read_bytes(), key_of(certificate).read_bytes())


def issue(
    name: str,
    issuer: Issued | None = None,
    names: list[str] | None = None,
    days: float = 2,
    is_authority: bool = False,
    odd_names: bytes = b"",
) -> Issued:
    """Issue a certificate for a new P-256 key.

    Args:
        name: the common name of the subject.
        issuer: an authority; without one the certificate signs itself and is an authority.
        names: DNS names, IP addresses and URIs of a server.
        days: from now until it expires; negative for one that has expired.
        is_authority: whether it is an intermediate authority.
        odd_names: DER of alternative names that the library cannot write.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer, issuer_name = key, subject
    if issuer is not None:
        signer = _ec_key(issuer)
        issuer_name = x509.load_pem_x509_certificate(issuer.certificate).subject
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(issuer_name, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - 3 * _DAY).not_valid_after(now + days * _DAY)
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(issuer is None or is_authority, None), True),
        (_key_usage(is_authority=issuer is None or is_authority), True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False),
    ]
    if names:
        extensions.append((x509.SubjectAlternativeName([_general_name(each) for each in names]), False))
    if odd_names:
        oid = x509.SubjectAlternativeName.oid
        extensions.append((x509.UnrecognizedExtension(oid, odd_names), False))
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Issued(builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM), private)


def tls_options(directory: Path, client_ca: str = "") -> tuple[str | Path, ...]:
    """Return the options of a server whose certificate and key are server.pem and server.key in a directory.

    Args:
        directory: of the certificates.
        client_ca: the name of the file whose authorities clients need; "" if they need no certificate.
    """
    options = ("--tls-cert", directory / "server.pem", "--tls-key", directory / "server.key")
    return (*options, "--client-ca", directory / client_ca) if client_ca else options


def _key_usage(is_authority: bool) -> x509.KeyUsage:
    """State what the key is for: Python 3.13 and later do not accept an authority without it (RFC 5280 §4.2.1.3)."""
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
    )


def _ec_key(issuer: Issued) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(issuer.key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def _general_name(name: str) -> x509.GeneralName:
    if "://" in name:
        return x509.UniformResourceIdentifier(name)
    with suppress(ValueError):
        return x509.IPAddress(ip_address(name))
    return x509.DNSName(name)
