"""The subject of a request to a keyprovider."""

from __future__ import annotations

from decoder.record import Record


class Subject(Record):
    """The image or layer of a request to a keyprovider, for the audit of our servers. No decision depends on it.

    Attributes:
        image: the reference of the image, or "".
        layer: the digest of the encrypted layer, or "".
        root: the root directory of the containerd in whose content store the layer's image is found, or "".
    """

    image: str = ""
    layer: str = ""
    root: str = ""
