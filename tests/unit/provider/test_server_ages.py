"""Connections that are idle or old are closed, and no call is lost by that."""

from __future__ import annotations

import time
from pathlib import Path

import grpc

from tests.support.provider.serving import Server, ask, request_of, wait_for

LISTEN = ("--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0")
WRAP = request_of("keywrap", b'{"symkey":"c2VjcmV0","digest":"sha256:0","cipheroptions":{}}')
OWN = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
CONNECTIONS = ("ctd_keyprovider_connections",)


def test_idle_connections_are_closed(local: tuple[str, ...], tmp_path: Path) -> None:
    prelude = "limits.PROVIDER_SERVER_IDLE_SECONDS = 1"
    with Server(tmp_path, *local, *LISTEN, prelude=prelude) as server, grpc.insecure_channel(server.target, OWN) as to:
        assert ask(to, "WrapKey", WRAP)
        assert server.metrics()[CONNECTIONS] == 1
        wait_for(lambda: server.metrics()[CONNECTIONS] == 0)
        assert ask(to, "WrapKey", WRAP)  # over a new one


def test_old_connections_are_replaced_under_calls(local: tuple[str, ...], tmp_path: Path) -> None:
    prelude = "limits.PROVIDER_SERVER_AGE_SECONDS = 1"
    with Server(tmp_path, *local, *LISTEN, prelude=prelude) as server, grpc.insecure_channel(server.target, OWN) as to:
        end = time.monotonic() + 5
        while time.monotonic() < end:
            assert ask(to, "WrapKey", WRAP)
            time.sleep(0.002)  # enough calls, and no busy machine
    assert len({line["address"] for line in server.audit}) > 2
