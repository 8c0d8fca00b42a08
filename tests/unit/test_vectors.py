"""Every vector that the reference library made, through the installed program and the reference itself."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from decoder import limits
from tests.support.keywrap.vectors import CASES, NAMES, run_case


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_vector(case: dict[str, Any], tmp_path: Path) -> None:
    result = run_case(case, tmp_path)
    if case["expect"] == "ok":
        assert (result.status, result.errors) == (0, "")
        assert len(result.plaintext) == case["plain_size"]
        assert hashlib.sha256(result.plaintext).hexdigest() == case["plain_sha256"]
    else:
        assert result.status in (4, 5)
        assert result.errors.startswith("ctd-decoder: error: ")
        assert "Traceback" not in result.errors
        assert len(result.plaintext) <= max(0, case["plain_size"] - limits.TAIL_BYTES)
