"""Which keys an image may make this node use."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from fnmatch import fnmatchcase

from decoder.errors import quoted
from decoder.provider.errors import KeyRefusedError

# The key that the operation of this thread uses, or tried to: its audit line names it.
key_in_use: ContextVar[str] = ContextVar("key_in_use", default="")


class KeyPolicy:
    """The keys that a provider may use, for an annotation comes from whoever serves the image.

    Args:
        configured: the provider's own key, or "" if it has none.
        allowed: shell patterns of further keys; if there are any, only keys that match one may be used.
    """

    def __init__(self, configured: str, allowed: Sequence[str]) -> None:
        self.configured = configured
        self.patterns = tuple(allowed)

    @property
    def is_open(self) -> bool:
        """Whether an image may choose any key: nothing was configured. The operator should be warned."""
        return not self.configured and not self.patterns

    def check(self, key: str) -> None:
        """Refuse a key that may not be used, and note it for the audit.

        Raises:
            KeyRefusedError: no pattern matches it, or, without patterns, it is not the configured key.
        """
        key_in_use.set(key)
        if self.patterns:
            if not any(fnmatchcase(key, pattern) for pattern in self.patterns):
                raise KeyRefusedError(f"the key {quoted(key)} is not one that allow-key allows")
        elif self.configured and key != self.configured:
            raise KeyRefusedError(f"the key {quoted(key)} is not the configured one; allow-key can allow more")
