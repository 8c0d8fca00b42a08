"""The choice of a request's key, and the check that it may be used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from decoder.errors import quoted
from decoder.node import journal
from decoder.provider.errors import KeyRefusedError, ProviderError

if TYPE_CHECKING:
    from decoder.provider.policy import KeyPolicy

NOTHING = ("", "Enabled")  # the parameters that ocicrypt sends for `provider:NAME` without a value


def key_to_wrap(parameters: Sequence[str], policy: KeyPolicy, read: Callable[[str], str], example: str) -> str:
    """Return the key to wrap with: the one that the caller names, or else the configured one.

    Args:
        parameters: the caller's parameters.
        policy: which keys may be used.
        read: checks and normalizes the name of a key.
        example: the name of a key of this service, for a message.

    Raises:
        ProviderError: no key or more than one is named, or the key is malformed or may not be used.
    """
    named = list(dict.fromkeys(read(item) for item in parameters if item not in NOTHING))
    if len(named) > 1:
        raise ProviderError(f"{len(named)} keys were named; name only one")
    key = named[0] if named else policy.configured
    if not key:
        raise ProviderError(
            "no key was named, and none is configured: name one in the recipient, such as "
            f"provider:NAME:{example}, or set the option `key`"
        )
    policy.check(key)
    return key


def check_key_to_unwrap(key: str, parameters: Sequence[str], policy: KeyPolicy, read: Callable[[str], str]) -> None:
    """Check that the policy and the caller allow a key that an annotation names.

    Args:
        key: the normalized name in the annotation.
        parameters: the caller's parameters; if they name keys, only those may be used.
        policy: which keys may be used.
        read: checks and normalizes the name of a key.

    Raises:
        KeyRefusedError: the key may not be used.
        ProviderError: a parameter is malformed.
    """
    policy.check(key)
    named = [read(item) for item in parameters if item not in NOTHING]
    if named and key not in named:
        raise KeyRefusedError(key, f"the key {quoted(key)} is not one that was asked for")
    if policy.is_open and not named:
        journal.warn(f"the image chose the key {quoted(key)}: neither key nor allow-key is configured")
