"""Private options whose wrapping has no integrity protection: CMS with CBC, and packets with A256CTR.

Whoever serves such an image may change the wrapped key, and would learn the layer's key from which changes still open,
if wrong keys, malformed options and a wrong HMAC were told apart. So what does not open is taken for random options:
the HMAC over the whole layer is then the only judge, and its verdict comes at the same place for all of them.
"""

from __future__ import annotations

import os

from decoder import limits
from decoder.layer.annotations import PrivateOptions, build_private_options, parse_private_options
from decoder.record import Record

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


def not_opened() -> bytes:
    """Return what a keyprovider answers if its key does not open a packet with A256CTR: random private options."""
    return build_private_options(_random())


def _random() -> PrivateOptions:
    key, nonce = os.urandom(limits.SYMMETRIC_KEY_BYTES), os.urandom(limits.NONCE_BYTES)
    return PrivateOptions(key, nonce, _NOT_OPENED)
