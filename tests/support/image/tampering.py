"""An image whose last layer an attacker changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tests.support.image import images

if TYPE_CHECKING:
    from tests.support.image.images import Layout

FORGED_GREETING = "a forgery as long as that"


WRAPPED_KEYS = "org.opencontainers.image.enc.keys.jwe"


HMAC_MESSAGE = "ctd-decoder: error: the layer is damaged or not authentic: its HMAC differs"


class Target(NamedTuple):
    """An encrypted image, and the plain text of its last layer, which begins with the script."""

    encrypted: Layout
    plaintext: bytes

    @property
    def forged(self) -> bytes:
        """What the attacker wants the last layer to be."""
        return self.plaintext.replace(images.GREETING.encode(), FORGED_GREETING.encode())


def flip(target: Target, tail: bytes = b"") -> bytes:
    """Flip the bits of the last layer's ciphertext that turn its text into the forged one, and append a tail."""
    assert len(target.forged) == len(target.plaintext)
    assert target.forged != target.plaintext
    ciphertext = target.encrypted.read(target.encrypted.layers[-1])
    flipped = (c ^ p ^ f for c, p, f in zip(ciphertext, target.plaintext, target.forged, strict=True))
    return bytes(flipped) + tail


def replace_last_layer(copy: Layout, ciphertext: bytes, plaintext: bytes, **annotations: str) -> dict[str, Any]:
    """Rewrite the image for another last layer; what it decrypts to decides its diff ID."""
    old = copy.layers[-1]
    descriptor = {**old, **copy.add(ciphertext, old["mediaType"])}
    descriptor["annotations"] = {**old["annotations"], **annotations}
    copy.replace_last_layer(descriptor, images.digest_of(plaintext))
    return descriptor
