"""What a keyprovider is asked about."""

from __future__ import annotations

from decoder.record import Record


class Subject(Record):
    """What a keyprovider is asked about, for the audit of a server of ours: a claim that nothing depends on.

    Attributes:
        image: the reference of the image, or "".
        layer: the digest of the encrypted layer, or "".
        root: the root directory of the containerd in whose content store the layer's image is found, or "".
    """

    image: str = ""
    layer: str = ""
    root: str = ""
