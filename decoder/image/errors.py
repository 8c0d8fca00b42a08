"""Errors about the blobs of an image, besides those in `decoder.errors`."""

from __future__ import annotations

from decoder.errors import ImageError


class InterruptedWriteError(ImageError):
    """Writing a blob was interrupted, perhaps for a short time: write it again, starting with `create`."""
