"""When certificates expire."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography import x509

if TYPE_CHECKING:
    from datetime import datetime


def earliest_end(chain: bytes) -> datetime:
    """Return when the first of some certificates expires.

    Args:
        chain: one or more certificates, PEM.

    Raises:
        ValueError: it has something else, or a certificate that cannot be read (`certificates.UNREADABLE`).
    """
    return min(each.not_valid_after_utc for each in x509.load_pem_x509_certificates(chain))
