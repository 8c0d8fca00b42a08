"""How long to wait before a request is sent again."""

from __future__ import annotations

import random
from collections.abc import Iterator

from decoder import limits


def pauses() -> Iterator[float]:
    """Yield the wait before each further attempt in seconds, growing; REGISTRY_ATTEMPTS - 1 times."""
    longest = limits.REGISTRY_RETRY_SECONDS
    for _ in range(limits.REGISTRY_ATTEMPTS - 1):
        yield longest * random.uniform(0.5, 1)  # noqa: S311 - only to keep clients from asking all at once
        longest *= 2
