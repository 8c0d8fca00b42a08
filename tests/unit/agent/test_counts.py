"""What becomes of clients is counted, and a lasting reason is logged once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decoder import limits
from decoder.agent.processes.counts import BUSY, Counts
from decoder.node import journal

if TYPE_CHECKING:
    import pytest


def test_each_lasting_reason_is_logged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(journal, "warn", lines.append)
    counts = Counts()
    for reason in ("Seccomp", "Seccomp", BUSY, "Namespace", "Seccomp"):
        counts.send_away(reason)
    counts.send_away(BUSY, 5)
    assert counts.sent_away == {"Seccomp": 3, BUSY: 6, "Namespace": 1}
    assert ["'Seccomp'" in lines[0], "'Namespace'" in lines[1], len(lines)] == [True, True, 2]


def test_reasons_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client says the reason, so there may be any number."""
    monkeypatch.setattr(journal, "warn", lambda _: None)
    counts = Counts()
    for number in range(3 * limits.AGENT_REASONS):
        counts.send_away(f"reason {number}")
    assert len(counts.sent_away) == limits.AGENT_REASONS + 1
    assert sum(counts.sent_away.values()) == 3 * limits.AGENT_REASONS
