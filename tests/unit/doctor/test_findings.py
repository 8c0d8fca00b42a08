"""Each finding of `ctd-decoder doctor` has a test in a state that real programs made: the table says which."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import TYPE_CHECKING

import decoder.doctor.checks
from decoder import doctor
from decoder.doctor.checks import keys, sources
from decoder.doctor.finding import Finding
from decoder.doctor.host import Host
from tests.support.program.processes import ROOT

if TYPE_CHECKING:
    import pytest

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


def test_a_check_that_fails_is_a_finding_and_the_next_ones_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """This state only a defect of ours makes. The text of the exception is not shown: it may hold a secret."""

    def fail(_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(doctor, "CHECKS", ("keys", "sources"))
    monkeypatch.setattr(keys, "check", fail)
    monkeypatch.setattr(sources, "check", lambda _: iter([Finding("ok", "x", "it ran")]))
    first, second = doctor.examine(Host())
    assert (first.level, first.check) == ("error", "keys")
    assert first.text.startswith("the check failed: ")
    assert "secret" not in first.text
    assert (second.text, second.check) == ("it ran", "sources")
