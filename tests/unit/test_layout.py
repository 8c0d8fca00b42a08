"""How code and tests are laid out: files are short, and what tests share is in tests/support."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.program.processes import ROOT

TESTS = ROOT / "tests"
LINES = 400
FILES = 14
ROOMS = ("tests.unit", "tests.system")


def test_shared_code_is_in_support() -> None:
    """A test file or conftest.py is imported by pytest only."""
    imported = {str(file.relative_to(ROOT)): sorted(_imports(file)) for file in TESTS.rglob("*.py")}
    assert {
        name: wrong for name, names in imported.items() if (wrong := [n for n in names if n.startswith(ROOMS)])
    } == {}


def test_only_tests_import_from_tests() -> None:
    files = [file for room in ("bench", "decoder", "packaging") for file in (ROOT / room).rglob("*.py")]
    assert len(files) > 300
    assert [file for file in files if re.search(rb"^\s*(from|import) tests\b", file.read_bytes(), re.MULTILINE)] == []


def _imports(file: Path) -> Iterator[str]:
    text = file.read_bytes()
    if not re.search(rb"tests\.(unit|system)|from tests import", text):
        return  # to parse all of them takes a second
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_files_are_short() -> None:
    lines = {str(file.relative_to(ROOT)): file.read_bytes().count(b"\n") for file in _programs()}
    assert len(lines) > 500
    assert {name: count for name, count in lines.items() if count > LINES} == {}


def test_rooms_are_small() -> None:
    rooms = {
        folder for room in ("decoder", "bench", "packaging") for folder in (ROOT / room).rglob("*") if folder.is_dir()
    }
    files = {str(folder.relative_to(ROOT)): len(list(folder.glob("*.py"))) for folder in rooms}
    assert len(files) > 30
    assert {name: count for name, count in files.items() if count > FILES} == {}


def _programs() -> Iterator[Path]:
    """Yield every file of code: Python, and the scripts that have no suffix."""
    for room in ("decoder", "tests", "bench", "packaging"):
        for file in (ROOT / room).rglob("*"):
            if file.is_file() and (file.suffix in (".py", ".sh", ".c", ".go") or _is_script(file)):
                yield file


def _is_script(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(2) == b"#!"
