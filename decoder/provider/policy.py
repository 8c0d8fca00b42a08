"""The policy of a provider: which keys an image may make this node use."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from decoder.errors import quoted
from decoder.provider.errors import KeyRefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence


class KeyPolicy:
    """The keys that a provider may use. An annotation names one, and it comes from an untrusted registry.

    Args:
        configured: the provider's own key, or "" if it has none.
        allowed: shell patterns (`allow-key`). If there are any, a key must match one of them.
    """

    def __init__(self, configured: str, allowed: Sequence[str]) -> None:
        self.configured = configured
        self.patterns = tuple(allowed)

    @property
    def is_open(self) -> bool:
        """Whether an image may choose any key, because none is configured; callers warn the operator then."""
        return not self.configured and not self.patterns

    def with_configured(self, key: str) -> KeyPolicy:
        """Return this policy with another configured key."""
        return KeyPolicy(key, self.patterns)

    def check(self, key: str) -> None:
        """Check that a key may be used.

        Raises:
            KeyRefusedError: no pattern matches it or, without patterns, it is not the configured key.
        """
        if self.patterns:
            if not any(fnmatchcase(key, pattern) for pattern in self.patterns):
                raise KeyRefusedError(key, f"the key {quoted(key)} does not match any allow-key")
        elif self.configured and key != self.configured:
            raise KeyRefusedError(key, f"the key {quoted(key)} is not the configured one (allow-key can allow more)")
