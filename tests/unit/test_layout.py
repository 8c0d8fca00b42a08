"""How the tests themselves are laid out: shared code is in tests/support alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import ROOT

TESTS = ROOT / "tests"
FILES = sorted(TESTS.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(TESTS)))
def test_shared_code_is_in_support(file: Path) -> None:
    """A test file or conftest.py is imported by pytest only."""
    assert [name for name in _imports(file) if name.startswith(("tests.unit", "tests.system"))] == []


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
