"""`make audit` says what was not audited. The reports are pip-audit's own, shortened."""

from __future__ import annotations

from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

_FILE = Path(__file__).parents[2] / "packaging/audit"
SKIPPED = {
    "name": "cffi",
    "skip_reason": "Dependency not found on PyPI and could not be audited: cffi (2.1.1)",
}
CLEAN: dict[str, Any] = {"name": "msgpack", "version": "1.2.1", "vulns": []}
VULNERABLE = {
    "name": "urllib3",
    "version": "1.26.4",
    "vulns": [{"id": "PYSEC-2021-108", "fix_versions": ["1.26.5"], "aliases": ["CVE-2021-33503"], "description": "x"}],
}


def judged(*dependencies: dict[str, Any]) -> tuple[str, int]:
    loader = SourceFileLoader("audit", str(_FILE))
    spec = spec_from_loader("audit", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    lines, status = module.judge({"dependencies": list(dependencies), "fixes": []})
    return "\n".join(lines), status


def test_what_was_not_audited_is_a_failure() -> None:
    """pip-audit itself ends with status 0 then."""
    text, status = judged(SKIPPED, CLEAN)
    assert status == 2
    assert "1 of 2 dependencies were not audited (cffi)" in text
    assert "--osv-url URL" in text
    assert judged() == ("audit: nothing was audited", 2)


def test_vulnerabilities_come_first() -> None:
    text, status = judged(VULNERABLE, SKIPPED)
    assert status == 1
    assert "audit: urllib3 1.26.4: PYSEC-2021-108, fixed in 1.26.5" in text
    assert "1 of 2 dependencies were not audited" in text


def test_all_were_audited() -> None:
    assert judged(CLEAN) == ("audit: none of 1 dependencies has a known vulnerability", 0)
