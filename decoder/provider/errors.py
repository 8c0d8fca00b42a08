"""Errors of key services."""

from __future__ import annotations

from decoder import limits


class ProviderError(Exception):
    """A key service did not perform a request. The text says why, without secrets or credentials.

    Attributes:
        reason: the class of the failure, for the audit.
    """

    reason = "failed"


class KeyRefusedError(ProviderError):
    """The key may not be used here.

    Args:
        key: the canonical name of the key, for the audit.
        text: the reason why it may not be used.
    """

    reason = "refused"

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


class ClientRefusedError(ProviderError):
    """The client may not do this. The text is for the audit, not for the client."""

    reason = "denied"


class RateError(ProviderError):
    """The client has sent too many requests, and may try again later."""

    reason = "limited"


class EndedError(ProviderError):
    """The server ends the connection after the TLS handshake."""


class NoKekServiceError(ProviderError):
    """The provider has no operations for key-encryption keys: it is another program, or an older version."""


def excerpt(text: str) -> str:
    """Quote the end of a provider's output, because the cause is mostly there: one line, about PROVIDER_ERROR_BYTES."""
    shown = ascii(text.strip()[-limits.PROVIDER_ERROR_BYTES :])
    if len(shown) > limits.PROVIDER_ERROR_BYTES or len(text.strip()) > limits.PROVIDER_ERROR_BYTES:
        shown = "…" + shown[-limits.PROVIDER_ERROR_BYTES :]
    return shown
