"""Opening many layers: each question is asked once, and a provider that failed slowly is not asked again."""

from __future__ import annotations

import json
from time import monotonic
from typing import TYPE_CHECKING

from decoder.errors import DecoderError, KeyProviderError
from decoder.image import manifest
from decoder.image.verbs.changes import LockedError, Opened, encryption_of, open_layer
from decoder.keywrap import PROVIDER_PREFIX
from decoder.layer.annotations import DECODABLE, KEYS_PREFIX

if TYPE_CHECKING:
    from decoder.image.selection import Layer
    from decoder.image.transport import BlobSource
    from decoder.keys.keyring import DecryptConfig

_SLOW_SECONDS = 2.0


class UnknownTypeError(DecoderError):
    """A layer calls itself encrypted, with a media type that the decoder does not know."""

    status = 4


class NotAskedError(DecoderError):
    """A keyprovider failed slowly for another layer, and was not asked again."""

    status = KeyProviderError.status


class Opener:
    """Opens layers with the same keys.

    Args:
        keys: those to try.
        source: has the layers.
    """

    def __init__(self, keys: DecryptConfig, source: BlobSource) -> None:
        self._keys = keys
        self._source = source
        self._known: dict[str, Opened | DecoderError] = {}
        self._failed: dict[str, str] = {}

    def open(self, each: Layer) -> Opened:
        """Open the key of an encrypted layer.

        Raises:
            UnknownTypeError: the decoder does not know its media type.
            NotAskedError: only a keyprovider could open it, and that failed before.
            LockedError: no key opens it.
            DigestError: it had to be read, and is not what its descriptor says.
            ImageError: it had to be read, and cannot be.
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
            if error.status == KeyProviderError.status and monotonic() - began > _SLOW_SECONDS:
                prefix = KEYS_PREFIX + PROVIDER_PREFIX
                self._failed.update({name: where for name in asked if name.startswith(prefix)})
            if skipped:
                first = skipped[0]
                name = manifest.shown(first.removeprefix(KEYS_PREFIX))
                text = f"{where}: {name} failed for {self._failed[first]} and was not asked again"
                raise NotAskedError(text) from error
            raise
