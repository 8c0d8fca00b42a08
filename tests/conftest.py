"""The order of the files: those that many others wait for, or that take longest, come first."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

_FIRST = ("tests/system/packaging/test_contents.py",)  # it builds the packages


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the order within files, and of all other files, as it is."""
    items.sort(key=lambda item: not item.nodeid.startswith(_FIRST))
