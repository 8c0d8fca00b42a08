"""The environment of a test."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def forget(patch: pytest.MonkeyPatch, *prefixes: str) -> None:
    """Remove proxies, and variables with these prefixes: a test does not depend on who runs it."""
    for name in list(os.environ):
        if name.startswith(prefixes) or name.lower().endswith("_proxy"):
            patch.delenv(name)
