"""The target `certificate`: a certificate that somebody else has made, and a public key, DER or PEM, in each use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from decoder.errors import DecoderError
from decoder.formats.certificates import UNREADABLE, is_issued_by
from decoder.grants.listing import certificate as listed
from decoder.keywrap.pkcs7.naming import subjects_of
from decoder.keywrap.publickeys import read_public_keys
from decoder.keywrap.recipient import RecipientRules
from decoder.provider.client import tls
from decoder.provider.errors import ProviderError
from decoder.provider.server.clients import peer
from tests.support.keywrap.pkcs7_parts import pem_of
from tests.support.keywrap.vectors import VECTORS
from tests.support.network.certificates import issue

_RULES = RecipientRules(bytes)  # no key ring of GnuPG


def run(data: bytes) -> None:
    """Use it as a recipient, an authority, a client and a server."""
    pem = pem_of(data, "CERTIFICATE")
    for text in (data, pem):
        for certified in (False, True):
            with suppress(DecoderError):
                read_public_keys(text, _RULES, certified=certified)
        subjects_of([text])
    listed(data)
    tls._warn_of_expiry("", pem)
    with suppress(ProviderError):
        tls._name_in(data)
    with suppress(*UNREADABLE):
        certificate = x509.load_der_x509_certificate(data)
        peer._names(certificate)
        is_issued_by(certificate, certificate)


def seeds() -> Iterator[bytes]:
    """Give certificates with names of each kind, of an authority, and for RSA."""
    for names in (["a.example", "127.0.0.1", "spiffe://a/b"], None):
        yield x509.load_pem_x509_certificate(issue("x", names=names).certificate).public_bytes(Encoding.DER)
    yield from ((VECTORS / "keys" / name).read_bytes() for name in ("cert1.pem", "other.crt", "rsa2048.pub.pem"))
