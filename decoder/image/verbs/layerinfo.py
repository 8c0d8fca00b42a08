"""`image layerinfo`: list every layer with its encryption, its recipients, and whether the given keys open it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from decoder.errors import DecoderError, LayerError
from decoder.image import manifest, names, selection
from decoder.image.manifest import shown
from decoder.image.verbs.opening import Opener
from decoder.keywrap.pkcs7.naming import subjects_of
from decoder.layer.annotations import wrapped_keys

if TYPE_CHECKING:
    from decoder.image.names import Recipient
    from decoder.image.selection import Layer
    from decoder.image.transport import Descriptor, ImageSource
    from decoder.keys.keyring import DecryptConfig

_HEADINGS = ("#", "DIGEST", "PLATFORM", "SIZE", "ENCRYPTION", "RECIPIENTS", "OPENS")
_RIGHT = ("#", "SIZE")


class LayerInfo(NamedTuple):
    """Information about one layer.

    Attributes:
        number: the layer's position in its manifest; 0 is the lowest layer.
        descriptor: the layer's descriptor.
        platform: the platform of its manifest, or "".
        schemes: the schemes of its wrapped keys; empty if it is not encrypted.
        recipients: the names of its recipients.
        opens: whether a key opens it; None if it is not encrypted, or no key was given.
        reason: the reason why no key opens it, or "".
    """

    number: int
    descriptor: Descriptor
    platform: str
    schemes: list[str]
    recipients: list[Recipient]
    opens: bool | None
    reason: str

    def for_programs(self) -> dict[str, object]:
        """Return the members for --json."""
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
    """Return information about every layer of an image.

    Args:
        source: the image.
        platforms: the platforms of the manifests; empty for all manifests, and for artifacts that are not images.
        certificates: certificates, whose subjects are used as names of recipients.
        keys: the keys to try on the layers; None to try none.

    Raises:
        UsageError: the image lacks one of the platforms.
        ImageError: the image cannot be read.
    """
    root = manifest.load(source)
    nodes = selection.choose_images(root, platforms) if platforms else list(root.walk())
    subjects = subjects_of(certificates)
    opener = Opener(keys, source) if keys else None
    return [_info(each, subjects, opener) for each in selection.choose_layers(nodes, [])]


def table(infos: Sequence[LayerInfo], with_keys: bool, width: int = 0) -> str:
    """Return a table for people, with one line for each layer.

    Args:
        infos: the layers.
        with_keys: whether keys were tried.
        width: the terminal's width in characters; digests and recipients are shortened to fit. 0 shows them whole.
    """
    headings = _HEADINGS if with_keys else _HEADINGS[:-1]
    rows = [headings, *(_row(info, bool(width))[: len(headings)] for info in infos)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(headings))]
    gap = "  " if width else "   "
    if width:
        recipients = headings.index("RECIPIENTS")
        room = width - sum(widths) + widths[recipients] - len(gap) * (len(widths) - 1)
        widths[recipients] = min(widths[recipients], max(room, len("RECIPIENTS")))
    return "\n".join(gap.join(_cells(headings, row, widths)).rstrip() for row in rows) + "\n"


def _cells(headings: Sequence[str], row: Sequence[str], widths: Sequence[int]) -> list[str]:
    cells = []
    for heading, cell, width in zip(headings, row, widths, strict=True):
        short = cell if len(cell) <= width else f"{cell[: width - 1]}…"
        cells.append(short.rjust(width) if heading in _RIGHT else short.ljust(width))
    return cells


def _info(each: Layer, subjects: names.Subjects, opener: Opener | None) -> LayerInfo:
    descriptor, platform = each.descriptor, each.node.platform
    annotations = manifest.annotations_of(descriptor)
    if not manifest.is_encrypted(descriptor["mediaType"]):
        return LayerInfo(each.number, descriptor, platform, [], [], None, "")
    try:
        recipients = names.recipients_of(annotations, subjects)
        schemes = list(dict.fromkeys(item.scheme for item in wrapped_keys(annotations)))
    except LayerError as error:
        return LayerInfo(each.number, descriptor, platform, ["?"], [], False, str(error))
    reason = _why_locked(each, opener) if opener else ""
    opens = not reason if opener else None
    return LayerInfo(each.number, descriptor, platform, schemes or ["?"], recipients, opens, reason)


def _why_locked(each: Layer, opener: Opener) -> str:
    """Return the reason why no key opens a layer; "" if a key opens it."""
    try:
        opener.open(each)
    except DecoderError as error:
        return str(error)
    return ""


def _row(info: LayerInfo, short: bool) -> tuple[str, ...]:
    recipients = ", ".join(f"{shown(each.scheme)}: {each.name}" for each in info.recipients)
    opens = {None: "", True: "yes", False: "no"}[info.opens]
    digest, size = info.descriptor["digest"], str(info.descriptor["size"])
    schemes = ",".join(map(shown, info.schemes))
    return str(info.number), _short(digest) if short else digest, info.platform, size, schemes, recipients, opens


def _short(digest: str) -> str:
    return digest.partition(":")[2][:12]
