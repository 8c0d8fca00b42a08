"""Shares the tests out to processes: a file stays in one, and so do all that build packages."""

from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)  # what reads the groups must find them
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        is_package = "packaging" in item.path.parts
        item.add_marker(pytest.mark.xdist_group("packaging" if is_package else str(item.path)))
