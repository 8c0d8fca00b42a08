"""What the schemes share about recipients: how a wrapped key names them."""

from __future__ import annotations

from decoder.errors import quoted
from decoder.record import Record


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
    """Check that `shown` has cut nothing: two long names may begin alike."""
    return "…" not in text
