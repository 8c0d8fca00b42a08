"""What can go wrong at a key service."""

from __future__ import annotations

from decoder import limits


class ProviderError(Exception):
    """A key service did not do what it was asked; the text says why, and holds no secret and no credential.

    `reason` classes it for the audit.
    """

    reason = "failed"


class KeyRefusedError(ProviderError):
    """The key is not one that may be used here."""

    reason = "refused"


def excerpt(text: str) -> str:
    """Quote the end of what a provider says, where the cause is: one line, at most PROVIDER_ERROR_BYTES."""
    shown = ascii(text.strip()[-limits.PROVIDER_ERROR_BYTES :])
    if len(shown) > limits.PROVIDER_ERROR_BYTES or len(text.strip()) > limits.PROVIDER_ERROR_BYTES:
        shown = "…" + shown[-limits.PROVIDER_ERROR_BYTES :]
    return shown
