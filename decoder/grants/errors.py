"""Errors of artifacts and keys."""

from __future__ import annotations

from decoder.errors import DecoderError


class StatementError(DecoderError):
    """An artifact is malformed, is not signed by a pinned key, or is about something else.

    Attributes:
        status: 5, because it may have been changed.
    """

    status = 5


class WrappingError(DecoderError):
    """A keyprovider did not wrap or unwrap a private key."""

    status = 6
