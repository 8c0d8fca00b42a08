"""Clients and connections that the agent's keeper uses again."""

from __future__ import annotations

import pytest

from decoder.provider.client import held


def test_things_are_used_again_for_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(held, "monotonic", lambda: now)
    things = held.Held(10)
    made: list[str] = []
    closed: list[str] = []

    def made_for(identity: str) -> str:
        def make() -> str:
            made.append(identity)
            return f"{identity}{len(made)}"

        with things.use(identity, make, closed.append) as thing:
            return thing

    assert [made_for("a"), made_for("b"), made_for("a")] == ["a1", "b2", "a1"]
    now += 11
    assert made_for("a") == "a3"
    assert list(things._entries) == ["a"]  # the expired one of b is dropped, too
    with pytest.raises(ValueError, match="broken"), things.use("a", str, closed.append):
        raise ValueError("broken")
    assert made_for("a") == "a4"
    assert closed == []


def test_once() -> None:
    closed: list[str] = []
    for _ in range(2):
        with held.EACH_ONCE.use("a", lambda: "thing", closed.append) as thing:
            assert thing == "thing"
    assert closed == ["thing"] * 2
