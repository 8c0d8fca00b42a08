"""X.509 certificates: the exceptions that the library `cryptography` raises for those that it cannot parse.

The library parses the parts of a certificate only when they are accessed, so a certificate that was loaded may still
have a key of an unknown kind, or malformed extensions or names.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    x509.AttributeNotFound,
)


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Check whether the issuer has signed a certificate, and has the name that this gives to its issuer."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, *UNREADABLE):
        return False
    return True
