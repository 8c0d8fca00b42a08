"""Advice for when no key opens a layer: the layer's recipients, and the keys that were available."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decoder import keywrap, limits
from decoder.errors import WrappedKeyError
from decoder.formats import wire

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from decoder.keys.keyring import Keyring
    from decoder.layer.annotations import WrappedKey


def advice(items: Sequence[WrappedKey], keyring: Keyring) -> list[str]:
    """Return lines about where keys were searched, and for each scheme the layer's recipients and the number of keys.

    Keyproviders are left out: each of their wrapped keys has its own line with the reason of the failure.

    Args:
        items: the wrapped keys.
        keyring: the keys that were tried.
    """
    lines = []
    for scheme, keys in _counts(keyring).items():
        names = list(dict.fromkeys(name for item in items if item.scheme == scheme for name in _recipients(item)))
        if names:
            first = ", ".join(names[: limits.LISTED_NAMES])
            more = f" and {len(names) - limits.LISTED_NAMES} more" if len(names) > limits.LISTED_NAMES else ""
            lines.append(f"{scheme}: the layer is for {first}{more}; keys to try: {keys}")
    is_for_keys = any(item.scheme in keywrap.SCHEMES for item in items)
    return [*keyring.notes.remarks, *lines] if is_for_keys else lines


def _counts(keyring: Keyring) -> dict[str, str]:
    private = _count(len(keyring.private), "private key")
    return {
        "jwe": private,
        "pkcs7": f"{private}, {_count(len(keyring.certificates), 'certificate')}",
        "pgp": _count(len(keyring.pgp), "file", "of OpenPGP secret keys"),
        "pkcs11": _count(len(keyring.pkcs11), "PKCS#11 key file"),
    }


def _count(number: int, what: str, rest: str = "") -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'} {rest}".rstrip()


def _recipients(item: WrappedKey) -> Iterator[str]:
    try:
        names = keywrap.load(item.scheme).recipients(wire.decode_base64(item.text), {})
    except (ValueError, WrappedKeyError):
        return  # the attempt's line has the reason
    for name in names[: limits.WRAPPED_KEYS]:
        yield name.text
