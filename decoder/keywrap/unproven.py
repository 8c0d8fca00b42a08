"""Private options whose wrapping has no integrity protection: CMS with CBC, and packets with A256CTR.

The server of such an image can change the wrapped key and watch which changes still open. If wrong keys, malformed
options and a wrong HMAC caused different errors, it could compute the layer's key. Therefore random options replace
those that do not open. Then only the HMAC over the whole layer decides, and all failures look the same, in the decoder
and in commands that read images.
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
    """The result of unwrapping without integrity protection; b"" if no key gave private options."""

    opened: bytes

    def options(self) -> PrivateOptions | None:
        """Return private options if they are well-formed. Nothing that others can observe may depend on the result."""
        try:
            options = parse_private_options(self.opened)
        except ValueError:
            return None
        return None if options.digest == _NOT_OPENED else options

    def options_or_random(self) -> PrivateOptions:
        """Return private options, or random ones if they are malformed: only the layer's HMAC tells the difference."""
        return self.options() or _random()


class UnprovenError(LayerError):
    """No key opened the layer, except perhaps one that only the layer's HMAC can prove.

    Args:
        failure: the attempts; it does not depend on the results of unwrapping.
        unproven: the results of unwrapping.
    """

    def __init__(self, failure: DecoderError, unproven: Sequence[Unproven]) -> None:
        super().__init__(f"the layer is damaged or not authentic, or {failure}")
        self.unproven = unproven


def keys_to_prove(public: PublicOptions, unproven: Sequence[Unproven]) -> list[tuple[LayerKey, str]]:
    """Return candidates for the layer's key, each with the plain layer's digest; random ones if none was opened."""
    return [_key_to_prove(public, each.options_or_random()) for each in unproven]


class UnprovenKey(LayerKey):
    """Candidates for a layer's key, of which the HMAC may prove one. Used as a LayerKey, it is the first of them.

    Attributes:
        keys: the candidates, at least one.
        error: the error to raise unless one is proven.
    """

    if TYPE_CHECKING:  # annotations would be fields of the record
        keys: Sequence[LayerKey]
        error: UnprovenError

    @classmethod
    def of(cls, public: PublicOptions, error: UnprovenError) -> UnprovenKey:
        """Join the public options with the results of unwrapping."""
        keys = [key for key, _ in keys_to_prove(public, error.unproven)]
        joined = cls(*keys[0])
        joined.keys, joined.error = keys, error
        return joined


def _key_to_prove(public: PublicOptions, private: PrivateOptions) -> tuple[LayerKey, str]:
    """Join both kinds of options. If the nonces differ, use a random key, which fails just as a wrong key does."""
    try:
        return layer_key(public, private), private.digest
    except LayerError:
        return layer_key(public, _random()._replace(nonce=public.nonce)), _NOT_OPENED


def not_opened() -> bytes:
    """Return random private options: a keyprovider's answer if its key does not open a packet with A256CTR."""
    return build_private_options(_random())


def _random() -> PrivateOptions:
    key, nonce = os.urandom(limits.SYMMETRIC_KEY_BYTES), os.urandom(limits.NONCE_BYTES)
    return PrivateOptions(key, nonce, _NOT_OPENED)
