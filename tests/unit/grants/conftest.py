"""An owner, a publisher, a node and a registry for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.image.grants import Parties, new_key
from tests.support.program.processes import ROOT
from tests.support.registry.memory_registry import MemoryRegistry


@pytest.fixture(autouse=True)
def _few_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registries speak plain HTTP here; the authorities of the system would be read in vain, 20 ms for each client."""
    monkeypatch.setenv("SSL_CERT_FILE", str(ROOT / "tests/vectors/keys/cert1.pem"))


@pytest.fixture
def parties() -> Iterator[Parties]:
    with MemoryRegistry() as registry:
        found = Parties(registry, new_key(), new_key(), new_key())
        found.put_sealed()
        yield found
