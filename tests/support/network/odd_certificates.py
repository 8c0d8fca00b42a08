"""Certificates that were damaged so that the library fails with each kind of its exceptions."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support.keywrap.pkcs7_parts import pem_of
from tests.support.network.certificates import issue

# What is replaced by what, as DER in hexadecimal digits.
_DAMAGES = {
    "version": ("a003020102", "a003020105"),
    "type of key": ("06072a8648ce3d0201", "06072a8648ce3d0209"),
    "curve": ("06082a8648ce3d030107", "06082a8648ce3d030137"),
    "extension twice": ("0603551d13", "0603551d0f"),
    "kind of name": ("8209612e6578616d706c65", "a309612e6578616d706c65"),
    "kind of text": ("0c0e6f64642d6365727469666963", "030e6f64642d6365727469666963"),
    "content of an extension": ("0603551d0e", "0603551d0f"),
    "serial number": ("02144", "02148"),
}
KINDS = (*_DAMAGES, "end")


def odd_certificate(kind: str) -> bytes:
    """Make a certificate, damaged in one way; PEM."""
    good = issue("odd-certificate"[:14], names=["a.example"]).certificate
    der = x509.load_pem_x509_certificate(good).public_bytes(Encoding.DER)
    if kind == "end":
        return pem_of(der[:-3], "CERTIFICATE")
    if kind == "serial number":
        at = der.index(bytes.fromhex("a003020102")) + len("a0030201020214") // 2
        return pem_of(der[:at] + b"\x80" + der[at + 1 :], "CERTIFICATE")
    before, after = map(bytes.fromhex, _DAMAGES[kind])
    assert before in der
    return pem_of(der.replace(before, after), "CERTIFICATE")
