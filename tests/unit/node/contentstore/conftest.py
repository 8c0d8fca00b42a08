"""A content store, a directory of keys, and what was opened."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.keywrap.layers import keys_directory
from tests.support.node.store_parts import Store

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "root")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A keys directory with the RSA key."""
    return keys_directory(tmp_path)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of all that is opened from here on."""
    names: list[str] = []
    os_open = os.open

    def recording(path: Any, *arguments: Any, **options: Any) -> int:
        names.append(str(path))
        return os_open(path, *arguments, **options)

    monkeypatch.setattr(os, "open", recording)
    return names
