"""Checks whether a server is listening, directly or through a proxy."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from decoder.provider.errors import ProviderError
from decoder.provider.reach import reach_socket, reach_url
from tests.support.program.environment import forget


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch)


@pytest.fixture
def listening() -> Iterator[str]:
    """The address of a server."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def refusing() -> Iterator[str]:
    """An address that nobody else takes, and that refuses connections."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


def test_a_server_is_reached_directly_or_through_a_proxy(
    listening: str, refusing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach_url(f"https://{listening}/path", 5)
    for proxy in (listening, f"http://{listening}"):
        monkeypatch.setenv("https_proxy", proxy)
        reach_url(f"https://{refusing}/path", 5)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    reach_url(f"https://{listening}/path", 5)
    with pytest.raises(ProviderError, match="no connection: Connection refused"):
        reach_url(f"https://{refusing}/path", 5)


@pytest.mark.parametrize("url", ["https://127.0.0.1:65536", "https://127.0.0.1:x"])
def test_a_port_that_is_none(url: str) -> None:
    with pytest.raises(ProviderError, match="its address has a port that is not a number up to 65535"):
        reach_url(url, 1)


def test_nobody_listens(refusing: str, tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match="no connection: Connection refused"):
        reach_url(f"http://{refusing}", 5)
    with pytest.raises(ProviderError, match="no connection: No such file or directory"):
        reach_socket(str(tmp_path / "none"), 5)
