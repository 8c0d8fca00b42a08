"""A key broker and a guest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.coco.kbs_parts import KEY, KID, Guest
from tests.support.coco.kbs_server import KbsServer
from tests.support.network.loopback import Authority
from tests.support.program.environment import forget

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def server(authority: Authority) -> Iterator[KbsServer]:
    with KbsServer(authority.server_context("127.0.0.1")) as server:
        server.resources[KID.path] = KEY
        yield server


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch)


@pytest.fixture
def guest(tmp_path: Path, authority: Authority) -> Guest:
    return Guest(tmp_path, authority)


@pytest.fixture
def sample(authority: Authority) -> dict[str, str]:
    return {"tee": "sample", "kbs-ca": str(authority.file)}
