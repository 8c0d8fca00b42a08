"""The ttrpc client of tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.provider.client_parts import NAME

SECONDS = 1


def entry(address: str | Path, **more: Any) -> dict[str, Any]:
    return {NAME: {"ttrpc": str(address), "timeout": SECONDS, **more}}
