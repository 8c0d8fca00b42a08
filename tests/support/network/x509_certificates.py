"""X.509 certificates for tests, made by the library."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

_NOW = datetime.now(UTC).replace(microsecond=0)
_USAGES = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
_OTHERS = ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")


def certificate(
    public: Any,
    name: str = "somebody",
    issuer: tuple[str, Any] | None = None,
    days: tuple[int, int] = (-1, 1),
    usage: str = "",
) -> bytes:
    """Make a certificate in PEM.

    Args:
        public: its public key.
        name: its common name.
        issuer: the common name and private key of the issuer; by default a throw-away key of the same name.
        days: from when to when it is valid, in days from now.
        usage: its one key usage; none for no such extension.
    """
    issuer_name, key = issuer or (name, ec.generate_private_key(ec.SECP256R1()))
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer_name)]))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOW + timedelta(days=days[0]))
        .not_valid_after(_NOW + timedelta(days=days[1]))
    )
    if usage:
        flags = {each: each == usage for each in (*_USAGES, *_OTHERS)}
        builder = builder.add_extension(x509.KeyUsage(**flags), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


class Authority(NamedTuple):
    """A CA: its certificate and private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def new_authority(name: str = "ca") -> Authority:
    """Make a CA that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    flags = dict.fromkeys((*_USAGES, *_OTHERS), False) | {"key_cert_sign": True, "crl_sign": True}
    builder = _builder(key.public_key(), name, (name, key), (-1, 100))
    for extension, critical in ((x509.BasicConstraints(True, None), True), (x509.KeyUsage(**flags), True)):
        builder = builder.add_extension(extension, critical)
    return Authority(builder.sign(key, hashes.SHA256()), key)


def client_certificate(public: Any, name: str, authority: Authority) -> bytes:
    """Issue a certificate for a client, as nodes have them; DER."""
    issuer = authority.certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value
    builder = _builder(public, name, (str(issuer), authority.key), (-1, 1))
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    names = x509.SubjectAlternativeName([x509.DNSName(name)])
    for extension in (x509.BasicConstraints(False, None), usage, names):
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(Encoding.DER)


def _builder(public: Any, name: str, issuer: tuple[str, Any], days: tuple[int, int]) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer[0])]))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOW + timedelta(days=days[0]))
        .not_valid_after(_NOW + timedelta(days=days[1]))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer[1].public_key()), critical=False)
    )
