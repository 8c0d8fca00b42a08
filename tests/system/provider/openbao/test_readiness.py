"""A server in front of OpenBao is ready while that can be used."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.support.provider.serving import Server, wait_for
from tests.support.services.bao_server import ROOT_TOKEN, BaoServer

LISTEN = ("--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--provider", "openbao", "--key", "layers")
ABSENT = (503, "the key service cannot be reached, or no key can be read\n")
OFTEN = "limits.PROVIDER_SERVER_CHECK_SECONDS = limits.PROVIDER_PROBE_SECONDS = 0.5"


@pytest.mark.usefixtures("as_root")
def test_a_sealed_server_is_of_no_use(tmp_path: Path) -> None:
    bao = BaoServer(tmp_path)
    try:
        options = ("--address", bao.url, "--ca-file", bao.ca_file)
        with Server(tmp_path, *LISTEN, *options, prelude=OFTEN) as server:
            wait_for(lambda: server.status("/readyz") == (200, "ready\n"))
            bao.post("sys/seal")
            wait_for(lambda: server.status("/readyz") == ABSENT)
            assert server.status("/healthz")[0] == 200
    finally:
        bao.stop()
    assert ROOT_TOKEN not in server.log


@pytest.mark.usefixtures("as_root")
def test_nobody_listens(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with Server(tmp_path, *LISTEN, "--address", address, prelude=OFTEN) as server:
        wait_for(lambda: server.metrics()["ctd_keyprovider_processes",] == 1)
        assert server.status("/readyz") == ABSENT
