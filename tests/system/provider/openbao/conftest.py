"""A server of OpenBao, and its token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from decoder.node import journal
from tests.support.program.environment import forget
from tests.support.services.bao_server import ROOT_TOKEN, BaoServer

if TYPE_CHECKING:
    from collections.abc import Iterator
from tests.support.services.openbao_parts import TOKEN


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaoServer]:
    """`layers` and `other` at transit, `layers` at team/keys; the policy `layers` allows the first."""
    server = BaoServer(tmp_path_factory.mktemp("bao"))
    try:
        server.add_key("layers")
        server.add_key("other")
        server.add_key("layers", "team/keys")
        server.allow("layers", "transit/encrypt/layers", "transit/decrypt/layers")
        yield server
    finally:
        server.stop()


@pytest.fixture(autouse=True)
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No test sees a token or an address of whoever runs it, and each can read the journal."""
    forget(monkeypatch, "BAO_", "VAULT_")
    texts: list[str] = []
    monkeypatch.setattr(journal, "warn", texts.append)
    return texts


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAO_TOKEN", ROOT_TOKEN)


# Servers that misbehave.


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAO_TOKEN", TOKEN)
