"""The exceptions that the library `cryptography` raises for X.509 certificates that it cannot parse.

The library parses the parts of a certificate only when they are accessed, so a certificate that was loaded may still
have a key of an unknown kind, or malformed extensions or names.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

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
