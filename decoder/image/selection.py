"""Choosing layers: by number, by platform, and those that an image adds to its base."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from decoder.errors import UsageError, quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from decoder.image.manifest import Node
    from decoder.image.transport import Descriptor

_RANGE = re.compile(r"(-?\d{1,9})|(\d{1,9})-(\d{1,9})|(-?\d{1,9})?\.\.(-?\d{1,9})?")
_PLATFORM = re.compile(r"[a-z0-9_.]+/[a-z0-9_.]+(/[a-z0-9_.]+)?")
# Go's names of architectures, which the image-spec uses.
_MACHINES = {
    "x86_64": "amd64",
    "i686": "386",
    "aarch64": "arm64",
    "armv7l": "arm/v7",
    "armv6l": "arm/v6",
    "loongarch64": "loong64",
}
_IMPLIED_VARIANTS = {"arm64": "v8", "arm": "v7", "amd64": "v1"}


class LayerRange(NamedTuple):
    """Layers from one number to another, both included. Negative numbers count from the top, which is -1."""

    text: str
    first: int
    last: int

    def numbers(self, count: int) -> range | None:
        """Apply the range to an image with a number of layers; return None if it reaches beyond them."""
        first, last = (number + count if number < 0 else number for number in (self.first, self.last))
        return range(first, last + 1) if 0 <= first <= last < count else None


class Layer(NamedTuple):
    """A layer of one of the manifests."""

    node: Node
    number: int

    @property
    def descriptor(self) -> Descriptor:
        """The layer's descriptor in the source."""
        return self.node.layers[self.number]

    def describe(self) -> str:
        """Return its name for messages."""
        return f"layer {self.number}" + (f" ({self.node.platform})" if self.node.platform else "")


def parse_range(text: str) -> LayerRange:
    """Parse `2`, `-1`, `0-2`, `0..2`, `-2..` or `..1`.

    Raises:
        UsageError: it is none of these.
    """
    match = _RANGE.fullmatch(text)
    if not match:
        raise UsageError(
            f"--layer {quoted(text)} is neither a layer number (0 is the lowest, -1 the top) nor a range (0-2, -2..)"
        )
    one, first, last, start, end = match.groups()
    if one:
        return LayerRange(text, int(one), int(one))
    return LayerRange(text, int(first or start or 0), int(last or end or -1))


def parse_platforms(texts: Sequence[str]) -> list[str]:
    """Parse platforms, `os/arch[/variant]`; a text may hold several, separated by commas.

    Raises:
        UsageError: a platform has another form.
    """
    platforms = [platform for text in texts for platform in text.lower().split(",")]
    for platform in platforms:
        if not _PLATFORM.fullmatch(platform):
            raise UsageError(f"--platform {quoted(platform)} is not of the form os/arch or os/arch/variant")
    return platforms


def own_platform() -> str:
    """Return the platform of this machine."""
    machine = os.uname().machine
    return f"linux/{_MACHINES.get(machine, machine)}"


def matches(platform: str, wanted: Sequence[str]) -> bool:
    """Check whether a platform is one of those wanted; one without a variant matches every variant."""
    return any(_fits(platform.split("/"), each.split("/")) for each in wanted)


def choose_images(root: Node, platforms: Sequence[str]) -> list[Node]:
    """Choose the manifests of some platforms, or of all.

    Raises:
        UsageError: the image does not have one of the platforms.
    """
    images = [node for node in root.walk() if node.is_image]
    for platform in platforms:
        if not any(matches(node.platform, [platform]) for node in images):
            there = ", ".join(sorted({node.platform or "unknown" for node in images})) or "none"
            raise UsageError(f"the image is not for --platform {quoted(platform)}; its platforms are {there}")
    return [node for node in images if not platforms or matches(node.platform, platforms)]


def choose_manifests(root: Node, platforms: Sequence[str]) -> list[Node]:
    """Choose the manifests of some platforms, or of all, for encryption: images and others, but no attestations.

    Raises:
        UsageError: there is none for one of the platforms.
    """
    nodes = [node for node in root.walk() if node.is_manifest and not node.is_attestation]
    if not all(any(matches(node.platform, [platform]) for node in nodes) for platform in platforms):
        choose_images(root, platforms)  # whose error names the platforms that there are
    return [node for node in nodes if not platforms or matches(node.platform, platforms)]


def other_entries(root: Node) -> list[Descriptor]:
    """Return the entries of indexes that are neither manifests nor indexes, and so cannot be encrypted."""
    return [each for node in root.walk() if not node.is_manifest for each in node.others]


def choose_layers(images: Sequence[Node], ranges: Sequence[LayerRange]) -> list[Layer]:
    """Choose layers by number, or all.

    Raises:
        UsageError: an image has no layer of that number.
    """
    chosen = []
    for node in images:
        numbers = set() if ranges else set(range(len(node.layers)))
        for each in ranges:
            found = each.numbers(len(node.layers))
            if found is None:
                name = f" for {node.platform}" if node.platform else ""
                raise UsageError(f"--layer {each.text} is out of range: the image{name} has {len(node.layers)} layers")
            numbers.update(found)
        chosen += [Layer(node, number) for number in sorted(numbers)]
    return chosen


def layers_of_base(node: Node, base: Node) -> int:
    """Return how many layers an image has from its base, by the digests of their uncompressed content.

    Args:
        node: a manifest of the image.
        base: the root of the base.

    Raises:
        UsageError: the base is not for the image's platform, or the image does not start with its layers.
    """
    own = node.diff_ids
    bases = [each for each in base.walk() if each.is_image and each.platform == node.platform]
    if not bases:
        raise UsageError(f"--skip-base: the base is not for {node.platform or 'the image, which names no platform'}")
    for each in bases:
        theirs = each.diff_ids
        if theirs and len(theirs) == len(each.layers) and len(own) == len(node.layers) and own[: len(theirs)] == theirs:
            return len(theirs)
    raise UsageError(f"--skip-base: the image for {node.platform} does not start with the layers of that base")


def _fits(platform: list[str], wanted: list[str]) -> bool:
    if platform[:2] != wanted[:2] or len(wanted) == 2:
        return platform[:2] == wanted[:2]
    variant = platform[2] if len(platform) > 2 else _IMPLIED_VARIANTS.get(platform[1], "")
    return variant == wanted[2]
