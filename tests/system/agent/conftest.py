"""A place for an agent; one with an agent that many tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.program.agent import Agent, Place


@pytest.fixture
def place() -> Iterator[Place]:
    with Place() as place:
        yield place


@pytest.fixture(scope="module")
def served() -> Iterator[Place]:
    """A place with an agent; every layer of the module must go through it."""
    with Place() as place, Agent(place):
        yield place
        assert place.fallbacks == 0


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coverage does not measure what the test starts: for thousands of layers, or the memory of a process."""
    monkeypatch.delenv("COVERAGE_PROCESS_START", raising=False)
