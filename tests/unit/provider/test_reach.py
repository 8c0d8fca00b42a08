"""Checks whether a server is listening, directly or through a proxy."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from decoder.provider.errors import ProviderError
from decoder.provider.reach import reach_socket, reach_url
from tests.support.environment import forget


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    forget(monkeypatch, "http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def test_a_server_that_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        reach_url(f"https://{address}/path", 5)
        for proxy in (address, f"http://{address}"):
            monkeypatch.setenv("https_proxy", proxy)
            reach_url("https://kms.invalid/path", 5)
        monkeypatch.setenv("no_proxy", "kms.invalid")
        with pytest.raises(ProviderError, match="no connection: "):
            reach_url("https://kms.invalid/path", 5)


@pytest.mark.parametrize("url", ["https://127.0.0.1:65536", "https://127.0.0.1:x"])
def test_a_port_that_is_none(url: str) -> None:
    with pytest.raises(ProviderError, match="its address has a port that is not a number up to 65535"):
        reach_url(url, 1)


def test_nobody_listens(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(ProviderError, match="no connection: Connection refused"):
        reach_url(f"http://{address}", 5)
    with pytest.raises(ProviderError, match="no connection: No such file or directory"):
        reach_socket(str(tmp_path / "none"), 5)
