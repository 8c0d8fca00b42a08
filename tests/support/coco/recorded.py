"""Replay what real peers answered; tests/vectors/peers/README.md says how it was recorded."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from tests.support.network.loopback import Answer, Asked, Loopback
from tests.support.network.ttrpc_server import frame, serving_ttrpc
from tests.support.program.processes import ROOT

PEERS = ROOT / "tests/vectors/peers"
Exchange = dict[str, Any]
_EXPIRES = re.compile(r"(?<=; )Expires=[^;]*", re.IGNORECASE)  # of cookies, five minutes after the recording
_LATER = "Expires=Wed, 21 Oct 2099 07:28:00 GMT"


def read(name: str) -> Any:
    """Read the recording of a peer."""
    return json.loads((PEERS / f"{name}.json").read_bytes())


def content(body: dict[str, str]) -> bytes:
    """Return a recorded body or message."""
    return b64decode(body["base64"]) if "base64" in body else body["text"].encode()


class Broker(Loopback):
    """Answers as the peer did, in the order of the recording, if it is asked for the same.

    Args:
        exchanges: over HTTP.
    """

    def __init__(self, exchanges: list[Exchange]) -> None:
        self.left = list(exchanges)
        super().__init__(self._replay)

    def _replay(self, asked: Asked) -> Answer:
        exchange = self.left.pop(0)
        recorded, response = exchange["request"], exchange["response"]
        assert (asked.method, asked.path) == (recorded["method"], recorded["path"])
        headers = {name: _EXPIRES.sub(_LATER, value) for name, value in response["headers"].items()}
        return Answer(response["status"], content(response["body"]), headers)


@contextmanager
def over_grpc(exchange: Exchange) -> Iterator[tuple[str, list[bytes]]]:
    """Answer one method of gRPC as the peer did; yields the address, and the messages that came."""
    came: list[bytes] = []
    response = exchange["response"]

    def answer(message: bytes, context: grpc.ServicerContext) -> bytes:
        came.append(message)
        if response["code"] != "OK":
            context.abort(grpc.StatusCode[response["code"]], response["details"])
        return content(response["message"])

    service, method = exchange["method"].strip("/").split("/")
    methods: dict[str, Any] = {method: grpc.unary_unary_rpc_method_handler(answer)}
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, methods)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", came
    finally:
        server.stop(None).wait()


@contextmanager
def over_ttrpc(path: Path, exchange: Exchange) -> Iterator[list[Any]]:
    """Answer one ttrpc request as the peer did; yields the requests that came."""
    response = b64decode(exchange["response"])
    with serving_ttrpc(path, {}, lambda _: frame(response)) as requests:
        yield requests
