"""`image layerinfo`: every layer, how it is encrypted, for whom by name, and whether the keys at hand open it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from decoder.errors import LayerError
from decoder.image import manifest, names, selection
from decoder.image.verbs.changes import LockedError, open_layer
from decoder.keywrap.pkcs7.naming import subjects_of
from decoder.layer import annotations as layer

if TYPE_CHECKING:
    from decoder.image.names import Recipient
    from decoder.image.selection import Layer
    from decoder.image.transport import Descriptor, ImageSource
    from decoder.keys.keyring import DecryptConfig

_HEADINGS = ("#", "DIGEST", "PLATFORM", "SIZE", "ENCRYPTION", "RECIPIENTS", "OPENS")
_RIGHT = ("#", "SIZE")


class LayerInfo(NamedTuple):
    """One layer.

    Attributes:
        number: from the bottom, which is 0.
        descriptor: of the layer.
        platform: of its manifest, or "".
        schemes: in which its keys are wrapped; none if it is not encrypted.
        recipients: by name.
        opens: whether a key opens it; None if there is nothing to open, or no key was given.
        reason: why none does, or "".
    """

    number: int
    descriptor: Descriptor
    platform: str
    schemes: list[str]
    recipients: list[Recipient]
    opens: bool | None
    reason: str

    def for_programs(self) -> dict[str, object]:
        """Write it as JSON members."""
        return {
            "layer": self.number,
            "platform": self.platform,
            "mediaType": self.descriptor["mediaType"],
            "digest": self.descriptor["digest"],
            "size": self.descriptor["size"],
            "encryption": self.schemes,
            "recipients": [each._asdict() for each in self.recipients],
            "opens": self.opens,
            "reason": self.reason,
        }


def layer_infos(
    source: ImageSource, platforms: Sequence[str], certificates: Sequence[bytes], keys: DecryptConfig | None
) -> list[LayerInfo]:
    """Tell of every layer of an image.

    Args:
        source: the image.
        platforms: of the manifests; none for all, and for artifacts that are no images.
        certificates: are named by their subjects.
        keys: whether these open the layers; None not to try.

    Raises:
        UsageError: the image is not for a platform.
        ImageError: it cannot be read.
    """
    root = manifest.load(source)
    nodes = selection.choose_images(root, platforms) if platforms else list(root.walk())
    subjects = subjects_of(certificates)
    layers = selection.choose_layers(nodes, [])
    return [_info(each, subjects, keys) for each in layers]


def table(infos: Sequence[LayerInfo], with_keys: bool) -> str:
    """Write a table for people, one line for each layer."""
    headings = _HEADINGS if with_keys else _HEADINGS[:-1]
    rows = [headings, *(_row(info)[: len(headings)] for info in infos)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(headings))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if heading in _RIGHT else cell.ljust(width)
            for heading, cell, width in zip(headings, row, widths, strict=True)
        ]
        lines.append("   ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def _info(each: Layer, subjects: names.Subjects, keys: DecryptConfig | None) -> LayerInfo:
    descriptor = each.descriptor
    annotations = manifest.annotations_of(descriptor)
    if not manifest.is_encrypted(descriptor["mediaType"]):
        return LayerInfo(each.number, descriptor, each.node.platform, [], [], None, "")
    try:
        recipients = names.recipients_of(annotations, subjects)
        schemes = list(dict.fromkeys(item.scheme for item in layer.wrapped_keys(annotations)))
    except LayerError as error:
        return LayerInfo(each.number, descriptor, each.node.platform, ["?"], [], False, str(error))
    opens, reason = (None, "") if keys is None else why_locked(each, keys)
    return LayerInfo(each.number, descriptor, each.node.platform, schemes or ["?"], recipients, opens, reason)


def why_locked(each: Layer, keys: DecryptConfig) -> tuple[bool, str]:
    """Try to open an encrypted layer; return whether that went well, and otherwise why not."""
    media_type = each.descriptor["mediaType"]
    if media_type not in layer.DECODABLE:
        return False, f"{each.describe()}: the decoder does not know its media type"
    try:
        open_layer(manifest.annotations_of(each.descriptor), media_type, keys, each.describe())
    except LockedError as error:
        return False, str(error)
    return True, ""


def _row(info: LayerInfo) -> tuple[str, ...]:
    recipients = ", ".join(map(str, info.recipients))
    opens = {None: "", True: "yes", False: "no"}[info.opens]
    digest, size = info.descriptor["digest"], str(info.descriptor["size"])
    return str(info.number), digest, info.platform, size, ",".join(info.schemes), recipients, opens
