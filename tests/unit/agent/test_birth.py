"""What an agent does about its OOM score; a process may lower its own score again only with a capability."""

from __future__ import annotations

from pathlib import Path

import pytest

from decoder.agent.birth import leave_agent, raise_oom_score
from decoder.errors import UsageError


@pytest.mark.parametrize(("before", "after"), [("-999\n", "0"), ("0\n", "0\n"), ("300\n", "300\n"), ("x", "x")])
def test_a_lower_score_is_reset(before: str, after: str, tmp_path: Path) -> None:
    path = tmp_path / "oom_score_adj"
    path.write_text(before)
    raise_oom_score(str(path))
    assert path.read_text() == after


def test_without_scores(tmp_path: Path) -> None:
    raise_oom_score(str(tmp_path / "absent"))


@pytest.mark.parametrize("place", ["", "1,2", "a,b,c", "1,2,c,d"])
def test_what_only_a_client_passes(place: str) -> None:
    with pytest.raises(UsageError):
        leave_agent(place)
