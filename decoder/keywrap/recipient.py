"""Recipients, for all schemes: how a wrapped key names them, and which ones are accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decoder.errors import quoted
from decoder.keys.file import read_key_file
from decoder.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable


class RecipientRules(Record):
    """Which recipients to accept.

    Attributes:
        read_keyring: returns the OpenPGP certificates of the keyring.
        allow_weak_keys: accept RSA keys from WEAK_RSA_BITS instead of RECIPIENT_RSA_BITS.
        allow_expired: accept certificates that are expired, not yet valid, or not meant for key encipherment.
        all_keys: if a file holds several unrelated keys or certificates, encrypt to all of them.
        read_file: reads a file with keys, and raises KeyFileError if it cannot.
    """

    read_keyring: Callable[[], bytes]
    allow_weak_keys: bool = False
    allow_expired: bool = False
    all_keys: bool = False
    read_file: Callable[[str], bytes] = read_key_file


class KeyName(Record):
    """The name of a recipient's key in a wrapped key.

    Attributes:
        text: a key ID, certificate, URL of a key, or only its algorithm; printable, at most QUOTED_CHARACTERS.
        is_unique: whether `text` identifies a single key.
    """

    text: str
    is_unique: bool


def shown(text: object) -> str:
    """Return untrusted text in printable form, cut at QUOTED_CHARACTERS."""
    return quoted(text)[1:].removesuffix("'").removesuffix('"')


def is_whole(text: str) -> bool:
    """Check that `shown` did not cut the text; two long names may begin with the same characters."""
    return "…" not in text
