"""Patterns of names in rules: `*` matches any characters except the separator of the parts of a name."""

from __future__ import annotations

import re
from functools import lru_cache


@lru_cache(maxsize=4096)
def compiled(pattern: str, separator: str = "/") -> re.Pattern[str]:
    """Compile a pattern, in which only `*` is special.

    Args:
        pattern: the pattern; it must match the whole name.
        separator: the character that `*` does not match; "" for none.
    """
    star = f"[^{re.escape(separator)}]*" if separator else ".*"
    return re.compile(star.join(map(re.escape, pattern.split("*"))), re.DOTALL)


def matches(name: str, pattern: str, separator: str = "/") -> bool:
    """Check whether a pattern matches a name; see `compiled`."""
    return compiled(pattern, separator).fullmatch(name) is not None
