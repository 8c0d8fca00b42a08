"""The request of `image encrypt`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from decoder.image.names import Recipient
    from decoder.image.recipients import Recipients
    from decoder.image.selection import LayerRange
    from decoder.image.transport import ImageSource
    from decoder.keys.keyring import DecryptConfig


class Request(NamedTuple):
    """What to encrypt, and for which recipients.

    Attributes:
        recipients: the recipients, who get access to every chosen layer.
        ranges: the layers by number; empty for all.
        platforms: the platforms of the manifests; empty for all.
        base: a base image, whose layers stay as they are; or None.
        keys: the keys to open layers that are encrypted already; None if none were given.
        removed: returns whether to remove a recipient; None to remove nobody.
        verify: whether to read every changed layer back.
        allow_plain: media types without an encrypted form that may stay plain, or `all`.
        recompress: whether to convert zstd layers to gzip.
        keep_attestations: whether to copy SBOMs and provenance of the image, which stay readable.
        destination: the destination of the image, `TRANSPORT:PLACE`.
    """

    recipients: Recipients
    ranges: Sequence[LayerRange]
    platforms: Sequence[str]
    base: ImageSource | None
    keys: DecryptConfig | None
    removed: Callable[[Recipient], bool] | None
    verify: bool
    allow_plain: Sequence[str] = ()
    recompress: bool = False
    keep_attestations: bool = True
    destination: str = ""
