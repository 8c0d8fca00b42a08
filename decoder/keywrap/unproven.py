"""Private options whose wrapping has no integrity protection: CMS with CBC, and packets with A256CTR.

Whoever serves such an image may change the wrapped key, and would learn the layer's key from which changes still open,
if wrong keys, malformed options and a wrong HMAC were told apart. So what does not open is taken for random options:
the HMAC over the whole layer is then the only judge, and its verdict comes at the same place for all of them, for
commands that read images as for the decoder.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from decoder import limits
from decoder.errors import LayerError
from decoder.layer.annotations import (
    LayerKey,
    PrivateOptions,
    build_private_options,
    layer_key,
    parse_private_options,
)
from decoder.record import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from decoder.errors import DecoderError
    from decoder.layer.annotations import PublicOptions

_NOT_OPENED = "not opened"


class Unproven(Record):
    """What a key, or none, made of a wrapped key without integrity protection; b"" if none gave private options."""

    opened: bytes

    def options(self) -> PrivateOptions | None:
        """Return private options if they are well-formed; only what is not told to anybody may depend on that."""
        try:
            options = parse_private_options(self.opened)
        except ValueError:
            return None
        return None if options.digest == _NOT_OPENED else options

    def options_or_random(self) -> PrivateOptions:
        """Return private options that only the HMAC of the layer can tell from the right ones."""
        return self.options() or _random()


class UnprovenError(LayerError):
    """Nothing but the layer's HMAC can tell whether a key opens it; the one failure unless that proves a key.

    Args:
        failure: what was tried; it does not depend on what was unwrapped.
        unproven: what was unwrapped.
    """

    def __init__(self, failure: DecoderError, unproven: Sequence[Unproven]) -> None:
        super().__init__(f"the layer is damaged or not authentic, or {failure}")
        self.unproven = unproven


def keys_to_prove(public: PublicOptions, unproven: Sequence[Unproven]) -> list[tuple[LayerKey, str]]:
    """Return keys, with the digest of the plain layer, for the HMAC to judge; random ones where none was opened."""
    return [_key_to_prove(public, each.options_or_random()) for each in unproven]


class UnprovenKey(LayerKey):
    """Keys of which at most one is the layer's, as only the HMAC can tell; as a LayerKey it is the first of them.

    Attributes:
        keys: all of them, at least one.
        error: the failure unless one is proven.
    """

    if TYPE_CHECKING:  # annotations would be fields of the record
        keys: Sequence[LayerKey]
        error: UnprovenError

    @classmethod
    def of(cls, public: PublicOptions, error: UnprovenError) -> UnprovenKey:
        """Join public options with what was unwrapped."""
        keys = [key for key, _ in keys_to_prove(public, error.unproven)]
        joined = cls(*keys[0])
        joined.keys, joined.error = keys, error
        return joined


def _key_to_prove(public: PublicOptions, private: PrivateOptions) -> tuple[LayerKey, str]:
    """Join both kinds of options; a nonce that differs tells no more than a wrong key."""
    try:
        return layer_key(public, private), private.digest
    except LayerError:
        return layer_key(public, _random()._replace(nonce=public.nonce)), _NOT_OPENED


def not_opened() -> bytes:
    """Return what a keyprovider answers if its key does not open a packet with A256CTR: random private options."""
    return build_private_options(_random())


def _random() -> PrivateOptions:
    key, nonce = os.urandom(limits.SYMMETRIC_KEY_BYTES), os.urandom(limits.NONCE_BYTES)
    return PrivateOptions(key, nonce, _NOT_OPENED)
