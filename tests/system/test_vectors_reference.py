"""The expectations of the vectors are those of the reference program."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from tests.support.keywrap.vectors import CASES, NAMES, run_case
from tests.support.program.processes import REFERENCE


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_reference_agrees(case: dict[str, Any], tmp_path: Path) -> None:
    """The expectations are those of the reference, but for the cases that are marked to go beyond it."""
    result = run_case(case, tmp_path, program=REFERENCE)
    succeeds = case["expect"] == "ok" and not case.get("beyond")
    assert (result.status == 0) is succeeds
    if succeeds:
        assert hashlib.sha256(result.plaintext).hexdigest() == case["plain_sha256"]
