"""An owner, a publisher, a node and a registry for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.grants import Parties, new_key
from tests.support.memory_registry import MemoryRegistry


@pytest.fixture
def parties() -> Iterator[Parties]:
    with MemoryRegistry() as registry:
        found = Parties(registry, new_key(), new_key(), new_key())
        found.put_sealed()
        yield found
