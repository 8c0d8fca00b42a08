"""The order of the files: those that many others wait for, or that take longest, come first."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

_FIRST = (
    "tests/system/packaging/test_contents.py",  # it builds the packages
    "tests/unit/provider/test_client_grpc.py",
    "tests/unit/provider/azurekv/test_failures.py",
    "tests/unit/provider/test_client_rotation.py",
    "tests/unit/provider/test_server_",
    "tests/unit/program/",
    "tests/unit/node/contentstore/test_bounds.py",
    "tests/unit/image/test_bad_input.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the order within files, and of all other files, as it is."""
    items.sort(key=lambda item: not item.nodeid.startswith(_FIRST))
