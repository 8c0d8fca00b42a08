"""What can go wrong with the blobs of an image, beside `decoder.errors.ImageError`."""

from __future__ import annotations

from decoder.errors import ImageError


class DigestError(ImageError):
    """The digest or size of a blob differs from its descriptor."""

    status = 5


class InterruptedWriteError(ImageError):
    """Writing a blob was interrupted, perhaps for a short time: write it again, starting with `create`."""
