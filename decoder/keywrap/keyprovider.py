"""Keyproviders as a scheme: private options wrapped and unwrapped by a command or a service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from decoder.errors import WrappedKeyError

if TYPE_CHECKING:
    from decoder.keys import Keys
    from decoder.keywrap import Refused


class KeyProvider:
    """One keyprovider, by the name that annotations give it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def unwrap(self, wrapped: bytes, keys: Keys, refused: Refused) -> bytes | None:
        """Ask the provider to unwrap."""
        raise WrappedKeyError(f"no keyprovider {self._name} is configured")

    def wrap(self, options: bytes, recipients: Sequence[bytes]) -> bytes:
        """Ask the provider to wrap."""
        raise WrappedKeyError(f"no keyprovider {self._name} is configured")
