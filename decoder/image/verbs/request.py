"""What `image encrypt` is asked for."""

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
    """What to encrypt, and to whom.

    Attributes:
        recipients: get access to every chosen layer.
        ranges: choose layers by number; none for all.
        platforms: choose manifests; none for all.
        base: its layers stay as they are; None for no such image.
        keys: open layers that are encrypted already; None if none were given.
        removed: whether a recipient is to be removed; None to remove nobody.
        verify: read every changed layer back.
        allow_plain: media types without an encrypted form that may stay plain, or `all`.
        recompress: turn zstd layers into gzip.
        keep_attestations: copy SBOMs and provenance of the image; they stay readable.
        destination: where the image will be, `TRANSPORT:PLACE`.
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
