"""The recipients of an encrypted layer: their names, as far as wrapped keys contain them, and their removal.

No wrapped key is opened here. Its authentication does not cover the recipients (RFC 7516 §5.1, RFC 5652 §6,
RFC 9580 §5.1), so each can be removed, and the others can still open it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from decoder import keywrap
from decoder.errors import WrappedKeyError
from decoder.formats import wire
from decoder.keywrap.recipient import KeyName
from decoder.layer.annotations import wrapped_keys

if TYPE_CHECKING:
    from decoder.layer.annotations import WrappedKey

Subjects = Mapping[bytes, str]
"""Names of certificates that are known, by their identifiers in CMS: see `keywrap.pkcs7.naming.subjects_of`."""
Identity = tuple[str, str]
"""A scheme, and a name that identifies one key."""


class Recipient(NamedTuple):
    """A recipient of a wrapped key.

    Attributes:
        scheme: the scheme of the wrapped key: `jwe`, …, or `provider.NAME`.
        item: the position of the wrapped key in its annotation.
        name: the name in the wrapped key: a key ID, certificate, URL of a key, or only an algorithm.
    """

    scheme: str
    item: int
    name: str

    def __str__(self) -> str:
        return f"{self.scheme}: {self.name}"


def recipients_of(annotations: Mapping[str, str], subjects: Subjects) -> list[Recipient]:
    """Return the recipients of a layer. A malformed wrapped key counts as one recipient, named `malformed: …`.

    Raises:
        LayerError: there are more than WRAPPED_KEYS.
    """
    items = wrapped_keys(annotations)
    return [Recipient(item.scheme, item.number, name.text) for item in items for name in _names(item, subjects)]


def identities(annotations: Mapping[str, str]) -> frozenset[Identity]:
    """Return the recipients of a layer whose names identify a single key.

    Raises:
        LayerError: there are more than WRAPPED_KEYS.
    """
    items = wrapped_keys(annotations)
    return frozenset((item.scheme, name.text) for item in items for name in _names(item, {}) if name.is_unique)


def without(
    annotations: Mapping[str, str], subjects: Subjects, is_removed: Callable[[Recipient], bool]
) -> dict[str, str]:
    """Remove recipients from the wrapped keys of a layer.

    Raises:
        LayerError: there are more than WRAPPED_KEYS.
        WrappedKeyError: a wrapped key has other recipients, too, and its form cannot be rewritten.
    """
    left: dict[str, list[str]] = {}
    for item in wrapped_keys(annotations):
        left.setdefault(item.annotation, [])
        text = _item_without(item, subjects, is_removed)
        if text:
            left[item.annotation].append(text)
    kept = {name: text for name, text in annotations.items() if name not in left}
    return {**kept, **{name: ",".join(texts) for name, texts in left.items() if texts}}


def selector(text: str) -> Callable[[Recipient], bool]:
    """Return a function that tells whether --remove-recipient names a recipient.

    Args:
        text: `SCHEME`, `SCHEME:NAME` or `provider:NAME[:KEY]`. NAME is a recipient's name as `layerinfo` prints it,
            or a word of it, such as a key ID.
    """
    scheme, _, name = text.partition(":")
    if scheme == keywrap.PROVIDER:
        provider, _, name = name.partition(":")
        scheme = keywrap.PROVIDER_PREFIX + provider
    name = name.lower()

    def is_removed(recipient: Recipient) -> bool:
        its = recipient.name.lower()
        return recipient.scheme == scheme and (not name or name == its or name in its.split())

    return is_removed


def _names(item: WrappedKey, subjects: Subjects) -> list[KeyName]:
    """Return the names of a wrapped key's recipients."""
    if not keywrap.is_supported(item.scheme):
        return [KeyName("scheme not supported", is_unique=False)]
    try:
        return keywrap.load(item.scheme).recipients(wire.decode_base64(item.text), subjects)
    except (ValueError, WrappedKeyError) as error:
        return [KeyName(f"malformed: {error}", is_unique=False)]


def _item_without(item: WrappedKey, subjects: Subjects, is_removed: Callable[[Recipient], bool]) -> str:
    """Return the text of a wrapped key without some recipients, or "" if none is left."""
    names = _names(item, subjects)
    kept = [
        number for number, name in enumerate(names) if not is_removed(Recipient(item.scheme, item.number, name.text))
    ]
    if len(kept) == len(names):
        return item.text
    if not kept:
        return ""
    return wire.encode_base64(keywrap.load(item.scheme).keep(wire.decode_base64(item.text), kept))
