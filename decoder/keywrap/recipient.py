"""What the schemes share about recipients: how a wrapped key names them, and which ones may be encrypted to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decoder.errors import quoted
from decoder.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable


class RecipientRules(Record):
    """What to accept as a recipient.

    Attributes:
        read_keyring: returns all OpenPGP certificates at hand.
        allow_weak_keys: accept RSA keys of WEAK_RSA_BITS, and not only of RECIPIENT_RSA_BITS.
        allow_expired: accept certificates that are expired, not yet valid, or not meant for key encipherment.
        all_keys: if a file holds several unrelated keys or certificates, encrypt to all of them.
    """

    read_keyring: Callable[[], bytes]
    allow_weak_keys: bool = False
    allow_expired: bool = False
    all_keys: bool = False


class KeyName(Record):
    """How a wrapped key names the key of one recipient.

    Attributes:
        text: key ID, certificate, URL of a key, or only its algorithm; printable, within QUOTED_CHARACTERS.
        is_unique: whether `text` stands for one key alone.
    """

    text: str
    is_unique: bool


def shown(text: object) -> str:
    """Return untrusted text in printable form, cut at QUOTED_CHARACTERS."""
    return quoted(text)[1:].removesuffix("'").removesuffix('"')


def is_whole(text: str) -> bool:
    """Check that `shown` has cut nothing off, because two long names may begin with the same characters."""
    return "…" not in text
