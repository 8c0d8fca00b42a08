"""Opening many layers: equal layers are opened once, and a keyprovider that failed slowly is not asked again."""

from __future__ import annotations

import json
from time import monotonic
from typing import TYPE_CHECKING

from decoder import limits
from decoder.errors import DecoderError, KeyProviderError
from decoder.image import manifest
from decoder.image.verbs.changes import LockedError, Opened, encryption_of, open_layer
from decoder.keywrap import PROVIDER_PREFIX
from decoder.layer.annotations import DECODABLE, KEYS_PREFIX

if TYPE_CHECKING:
    from decoder.image.selection import Layer
    from decoder.image.transport import BlobSource
    from decoder.keys.keyring import DecryptConfig


class UnknownTypeError(DecoderError):
    """The media type of a layer ends with `+encrypted`, but the decoder does not know it."""

    status = 4


class NotAskedError(DecoderError):
    """A keyprovider failed slowly for another layer, and was not asked again for this one."""

    status = KeyProviderError.status


class Opener:
    """Opens layers with the same keys.

    Args:
        keys: the keys to try.
        source: the image, whose layers are read if only an HMAC can tell whether a key is the right one.
    """

    def __init__(self, keys: DecryptConfig, source: BlobSource) -> None:
        self._keys = keys
        self._source = source
        self._known: dict[str, Opened | DecoderError] = {}
        self._failed: dict[str, str] = {}

    def open(self, each: Layer) -> Opened:
        """Open the key of an encrypted layer; results and failures are remembered.

        Raises:
            UnknownTypeError: the decoder does not know the layer's media type.
            NotAskedError: no other key opens the layer, and a keyprovider that failed slowly was not asked.
            LockedError: no key opens the layer.
            DigestError: the layer was read, and its digest or size is wrong.
            ImageError: the layer had to be read, and cannot be read.
        """
        media_type = each.descriptor["mediaType"]
        if media_type not in DECODABLE:
            raise UnknownTypeError(f"{each.describe()}: the decoder does not know its media type")
        annotations = encryption_of(manifest.annotations_of(each.descriptor))
        question = json.dumps(
            [media_type, each.descriptor["digest"], each.descriptor["size"], annotations], sort_keys=True
        )
        if question not in self._known:
            try:
                self._known[question] = self._ask(annotations, each)
            except DecoderError as error:
                self._known[question] = error
        found = self._known[question]
        if isinstance(found, DecoderError):
            raise found
        return found

    def _ask(self, annotations: dict[str, str], each: Layer) -> Opened:
        where = each.describe()
        skipped = [name for name in annotations if name in self._failed]
        asked = {name: text for name, text in annotations.items() if name not in skipped}
        began = monotonic()
        try:
            return open_layer(asked, each.descriptor, self._source, self._keys, where)
        except LockedError as error:
            if error.status == KeyProviderError.status and monotonic() - began > limits.SLOW_KEYPROVIDER_SECONDS:
                prefix = KEYS_PREFIX + PROVIDER_PREFIX
                self._failed.update({name: where for name in asked if name.startswith(prefix)})
            if skipped:
                first = skipped[0]
                name = manifest.shown(first.removeprefix(KEYS_PREFIX))
                text = f"{where}: {name} failed for {self._failed[first]} and was not asked again"
                raise NotAskedError(text) from error
            raise
