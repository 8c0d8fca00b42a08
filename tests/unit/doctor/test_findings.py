"""Each finding of `ctd-decoder doctor` has a test in a state that real programs made: the table says which."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import decoder.doctor.checks
from tests.support.processes import ROOT

TABLE = Path(__file__).with_name("findings.json")


def findings() -> set[str]:
    """List the findings in the code: the check, and what follows the subject."""
    found = set()
    for path in sorted(Path(decoder.doctor.checks.__path__[0]).glob("*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
                named = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "Finding"]
                found |= {f"{path.stem}.{function.name}: {_label(call)}" for call in named}
    return found


def _label(call: ast.Call) -> str:
    """Return the level, the text and the remedy, as the code has them."""
    level, _, *text = call.args
    return f"{ast.unparse(level)}, {', '.join(map(ast.unparse, text))}"


def test_each_finding_has_a_test() -> None:
    table: dict[str, str] = json.loads(TABLE.read_text())
    assert set(table) == findings()


def test_the_tests_exist() -> None:
    table: dict[str, str] = json.loads(TABLE.read_text())
    for place in table.values():
        path, _, test = place.partition("::")
        name, _, parameter = test.removesuffix("]").partition("[")
        text = (ROOT / path).read_text()
        assert f"def {name}(" in text, place
        assert not parameter or f'"{parameter}": State(' in text, place
