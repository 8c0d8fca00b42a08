"""Common parts of the verbs that change an image: their result, layers with the same blob, and opened keys."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from decoder import keywrap
from decoder.errors import DecoderError, DeniedError, LayerError, NoKeyError
from decoder.image import manifest
from decoder.image.proof import prove
from decoder.keywrap.unproven import UnprovenError
from decoder.layer.annotations import KEYS_PREFIX, PUBLIC_OPTIONS, PrivateOptions, layer_key, parse_public_options

if TYPE_CHECKING:
    from decoder.image.progress import Progress
    from decoder.image.selection import Layer
    from decoder.image.transport import BlobSource, Descriptor
    from decoder.keys.keyring import DecryptConfig
    from decoder.layer.annotations import LayerKey


# Annotations with offsets and digests of chunks in a compressed stream; they are wrong for another stream.
_ABOUT_COMPRESSION = (
    "io.github.containers.zstd-chunked.",
    "io.containers.zstd-chunked.",
    "containerd.io/snapshot/stargz",
)


class LockedError(DecoderError):
    """No key opens a layer; the text names it. The status is that of the cause."""

    def __init__(self, where: str, cause: NoKeyError | DeniedError | LayerError) -> None:
        super().__init__(f"{where}: {cause}")
        self.status = cause.status


class Opened(NamedTuple):
    """An encrypted layer that was opened: the layer's key, and the digest of the plain layer."""

    key: LayerKey
    plain: str

    @property
    def options(self) -> PrivateOptions:
        """The private options, for wrapping them to other recipients."""
        return PrivateOptions(self.key.symmetric_key, self.key.nonce, self.plain)


class Outcome(NamedTuple):
    """The result of a verb: the descriptor of the new image, and one entry for each changed layer."""

    descriptor: Descriptor
    changes: list[dict[str, Any]]


class Group(NamedTuple):
    """Layers of one or more manifests that are the same blob, wrapped for the same recipients.

    Attributes:
        layers: the layers, at least one.
        recompressed: the descriptor of the recompressed blob that is encrypted instead, or None.
    """

    layers: list[Layer]
    recompressed: Descriptor | None = None

    @property
    def descriptor(self) -> Descriptor:
        """The descriptor of the blob."""
        return self.recompressed or self.layers[0].descriptor

    def describe(self) -> str:
        """Name the layers for a message."""
        return ", ".join(each.describe() for each in self.layers)

    def change(self, media_type: str, digest: str, size: int, annotations: dict[str, str], action: str) -> list[Any]:
        """Point the manifests to another blob, and return an entry for each layer.

        Args:
            media_type: the media type of the new blob.
            digest: the digest of the new blob.
            size: the size of the new blob, in bytes.
            annotations: the new annotations about encryption; all other annotations stay.
            action: the change in the past tense, such as `encrypted`.
        """
        for node, number in self.layers:
            kept = without_encryption(manifest.annotations_of(node.layers[number]))
            if self.recompressed:
                kept = {name: text for name, text in kept.items() if not name.startswith(_ABOUT_COMPRESSION)}
            descriptor = manifest.described(node.layers[number], media_type, digest, size)
            descriptor.pop("annotations", None)
            merged = {**kept, **annotations}
            node.changed[number] = {**descriptor, **({"annotations": merged} if merged else {})}
        return [
            {"layer": each.number, "platform": each.node.platform, "action": action}
            | {"from": each.descriptor["digest"], "digest": digest, "size": size}
            for each in self.layers
        ]


def group(layers: Iterable[Layer]) -> list[Group]:
    """Group layers with the same blob, the largest first, so that the last ones to finish are small."""
    groups: dict[str, Group] = {}
    for each in layers:
        descriptor = each.descriptor
        annotations = encryption_of(manifest.annotations_of(descriptor))
        key = json.dumps([descriptor["mediaType"], descriptor["digest"], annotations], sort_keys=True)
        groups.setdefault(key, Group([])).layers.append(each)
    return sorted(groups.values(), key=lambda found: -int(found.descriptor["size"]))


def encryption_of(annotations: dict[str, str]) -> dict[str, str]:
    """Return the annotations about encryption."""
    return {name: text for name, text in annotations.items() if name == PUBLIC_OPTIONS or name.startswith(KEYS_PREFIX)}


def without_encryption(annotations: dict[str, str]) -> dict[str, str]:
    """Return the annotations that are not about encryption."""
    return {name: text for name, text in annotations.items() if name not in encryption_of(annotations)}


def open_layer(
    annotations: dict[str, str], descriptor: Descriptor, source: BlobSource, keys: DecryptConfig, where: str
) -> Opened:
    """Open an encrypted layer's key as the decoder does.

    Args:
        annotations: the layer's annotations about encryption.
        descriptor: the layer's media type, digest and size.
        source: the source of the layer, which is read if only its HMAC can tell whether a key is the right one.
        keys: the keys to try.
        where: the name of the layer in messages.

    Raises:
        LockedError: no key opens the layer, a rule denies it, or its wrapped key holds malformed options.
        DigestError: the layer was read, and its digest or size is wrong.
        ImageError: the layer cannot be read.
    """
    try:
        public = parse_public_options(annotations)
        try:
            private = keywrap.unwrap_any(annotations, keys, descriptor["mediaType"])
        except UnprovenError as error:
            return Opened(*prove(source, descriptor, public, error))
        return Opened(layer_key(public, private), private.digest)
    except (NoKeyError, DeniedError, LayerError) as error:
        raise LockedError(where, error) from error


def note_if_nothing_changed(outcome: list[dict[str, Any]], progress: Progress) -> None:
    """Add a remark if no layer was changed, so that the image was only copied."""
    if not outcome:
        progress.remark("no layer was changed; the image is copied as it is")
