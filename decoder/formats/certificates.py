"""What the library `cryptography` raises for X.509 certificates that it cannot read, or not all of.

It parses a certificate part by part, when somebody asks for it: one that was loaded may still have a key of an unknown
kind, malformed extensions or names.
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
