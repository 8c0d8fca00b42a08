"""What is wrong with an artifact."""

from __future__ import annotations

from decoder.errors import DecoderError


class StatementError(DecoderError):
    """An artifact is malformed, is not signed by a key that is pinned, or is about something else.

    Attributes:
        status: 5, for somebody may have changed it.
    """

    status = 5


class WrappingError(DecoderError):
    """A keyprovider did not wrap or unwrap a private key."""

    status = 6
