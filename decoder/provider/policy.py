"""Which keys an image may make this node use."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from decoder.errors import quoted
from decoder.provider.errors import ProviderError


class KeyPolicy:
    """The keys that a provider may use, for an annotation comes from whoever serves the image.

    Args:
        configured: the provider's own key, or "" if it has none.
        allowed: shell patterns of further keys; if there are any, only keys that match one may be used.
    """

    def __init__(self, configured: str, allowed: Sequence[str]) -> None:
        self.configured = configured
        self._patterns = tuple(allowed)

    @property
    def is_open(self) -> bool:
        """Whether an image may choose any key: nothing was configured. The operator should be warned."""
        return not self.configured and not self._patterns

    def check(self, key: str) -> None:
        """Refuse a key that may not be used.

        Raises:
            ProviderError: no pattern matches it, or, without patterns, it is not the configured key.
        """
        if self._patterns:
            if not any(fnmatchcase(key, pattern) for pattern in self._patterns):
                raise ProviderError(f"the key {quoted(key)} is not one that allow-key allows")
        elif self.configured and key != self.configured:
            raise ProviderError(f"the key {quoted(key)} is not the configured one; allow-key can allow more")
