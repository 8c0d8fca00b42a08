"""Errors about artifacts and wrapped keys."""

from __future__ import annotations

from decoder.errors import DecoderError


class StatementError(DecoderError):
    """An artifact is malformed, is not signed by a trusted key, or is about another repository, key or node.

    Attributes:
        status: 5, as for damaged layers, because the artifact may have been changed.
    """

    status = 5


class WrappingError(DecoderError):
    """A keyprovider did not wrap or unwrap a private key."""

    status = 6
