"""The expiry of X.509 certificates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography import x509

if TYPE_CHECKING:
    from datetime import datetime


def earliest_end(chain: bytes) -> datetime:
    """Return the earliest time at which one of several certificates expires.

    Args:
        chain: one or more certificates in PEM.

    Raises:
        ValueError: the text is not PEM, or a certificate cannot be parsed; also the others of
            `certificates.UNREADABLE`.
    """
    return min(each.not_valid_after_utc for each in x509.load_pem_x509_certificates(chain))
