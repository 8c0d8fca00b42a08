"""The image that a layer belongs to, as far as containerd's content store shows.

Names of images are in containerd's database, not in the content store. Only an imported index holds them as
annotations. Otherwise messages name the digest, which `ctr images list` and `crictl images --digests` show, too.
"""

from __future__ import annotations

import os
from contextlib import suppress
from time import monotonic

from decoder import limits
from decoder.errors import quoted
from decoder.formats import wire
from decoder.node.containerd.contentstore import BLOBS
from decoder.record import Record

_ALGORITHM = "sha256:"
_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_HEX = frozenset("0123456789abcdef")
_HEX_CHARACTERS = 64


class Image(Record):
    """An image.

    Attributes:
        digest: the digest of its index, or of its manifest if it has no index, as in `ctr images list`; "" if unknown.
        name: its name, quoted for messages; "" if unknown.
    """

    digest: str = ""
    name: str = ""


def find_image(root: str, layer: str) -> Image:
    """Find an image that has a layer.

    Args:
        root: containerd's root directory.
        layer: the layer's digest.

    Returns:
        The image; with empty fields if none is found within IMAGE_NAME_SECONDS.
    """
    return find_image_with(root, layer.encode()) if is_digest(layer) else Image()


def find_image_with(root: str, text: bytes) -> Image:
    """Find an image whose manifest contains a text, such as the digest of a layer or a part of an annotation.

    Args:
        root: containerd's root directory.
        text: the text, as it is written in the JSON.

    Returns:
        The image; with empty fields if none is found within IMAGE_NAME_SECONDS.
    """
    blobs = _candidates(os.path.join(root, BLOBS), text)
    manifest = next((_ALGORITHM + name for name, data in blobs if text in data), "")
    if not manifest:
        return Image()
    for name, index in blobs:
        if manifest.encode() in index:
            named = _name(index, manifest)
            return Image(_ALGORITHM + name, quoted(named) if named else "")
    return Image(manifest)


def is_digest(text: str) -> bool:
    """Check whether a text is a SHA-256 digest in OCI's form, `sha256:` and 64 lower-case hexadecimal digits."""
    digits = text.removeprefix(_ALGORITHM)
    return text.startswith(_ALGORITHM) and len(digits) == _HEX_CHARACTERS and _HEX.issuperset(digits)


def _candidates(folder: str, text: bytes) -> list[tuple[str, bytes]]:
    """Return the name and content of each manifest that contains the text, and of each index, newer ones first."""
    deadline = monotonic() + limits.IMAGE_NAME_SECONDS
    found: list[tuple[str, bytes]] = []
    size = 0
    with suppress(OSError), os.scandir(folder) as scan:
        entries = sorted(scan, key=os.DirEntry.inode, reverse=True)
        for entry in entries[: limits.STORE_MANIFESTS]:
            if monotonic() > deadline or size > limits.IMAGE_NAME_TOTAL_BYTES:
                break
            with suppress(OSError):
                data = _read_json(entry)
                if text in data or b'"manifests"' in data:
                    size += len(data)
                    found.append((entry.name, data))
    return found


def _read_json(entry: os.DirEntry[str]) -> bytes:
    if not entry.is_file(follow_symlinks=False) or entry.stat(follow_symlinks=False).st_size > limits.IMAGE_NAME_BYTES:
        return b""
    blob = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        start = os.read(blob, 1)
        return start + os.read(blob, limits.IMAGE_NAME_BYTES) if start == b"{" else b""
    finally:
        os.close(blob)


def _name(index: bytes, manifest: str) -> str:
    with suppress(ValueError):
        for entry in wire.list_value(wire.parse_object(index).get("manifests")):
            descriptor = wire.object_value(entry)
            annotations = wire.object_value(descriptor.get("annotations"))
            if descriptor.get("digest") == manifest:
                return next((wire.text_value(annotations[name]) for name in _NAMES if name in annotations), "")
    return ""
