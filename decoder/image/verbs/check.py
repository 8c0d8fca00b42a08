"""`image check`: whether keys open every encrypted layer of an image for a platform, without reading the layers.

It fails closed: a platform that is not there, a layer of an unknown encrypted type and malformed annotations are all
a no.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from decoder.errors import DecoderError, UsageError
from decoder.image import manifest, selection
from decoder.image.verbs.layerinfo import why_locked

if TYPE_CHECKING:
    from decoder.image.transport import ImageSource
    from decoder.keys.keyring import DecryptConfig


class NotAuthorizedError(DecoderError):
    """The keys do not open all of the image."""

    status = 4


def check_image(source: ImageSource, platforms: Sequence[str], keys: DecryptConfig) -> tuple[int, int]:
    """Open the key of every encrypted layer.

    Args:
        source: the image.
        platforms: all of which must open; none for that of this machine.
        keys: all there are.

    Returns:
        How many layers are encrypted, and how many there are.

    Raises:
        NotAuthorizedError: a layer does not open, or the image is not for a platform.
        ImageError: it cannot be read.
    """
    root = manifest.load(source)
    try:
        images = selection.choose_images(root, platforms or [selection.own_platform()])
    except UsageError as error:
        raise NotAuthorizedError(str(error)) from error
    images += [node for node in root.walk() if node.is_image and not node.platform]  # whoever runs it may choose these
    layers = selection.choose_layers(images, [])
    encrypted = [each for each in layers if manifest.is_encrypted(each.descriptor["mediaType"])]
    reasons = [reason for each in encrypted for opens, reason in [why_locked(each, keys)] if not opens]
    if reasons:
        locked = f"{len(reasons)} of {len(encrypted)} encrypted layers do not open"
        raise NotAuthorizedError("\n".join([locked, *reasons]))
    return len(encrypted), len(layers)
