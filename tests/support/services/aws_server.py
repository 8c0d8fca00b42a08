"""AWS KMS as moto imitates it, and a server that gives one answer to every request to KMS.

The libraries are imported when they are used: every process that runs tests imports this file, and one uses it.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET_KEY = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
SESSION_TOKEN = "session-token-" + "t" * 64
REGION = "eu-west-1"


@contextmanager
def running_moto() -> Iterator[str]:
    """Run moto's server on a free port, without what an earlier one in this process held, and give its URL."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        urllib.request.urlopen(f"http://{host}:{port}/moto-api/reset", b"", timeout=60).close()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def use_test_account(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """Configure AWS by the environment alone."""
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KMS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(directory / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(directory / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)


def kms_client(endpoint: str) -> Any:
    """Give a client for what an administrator does."""
    import boto3  # type: ignore[import-untyped]

    return boto3.client(
        "kms",
        region_name=REGION,
        endpoint_url=endpoint,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
    )


class Answers:
    """A server in KMS's place.

    Attributes:
        endpoint: its URL.
        requests: the bodies that came.
        answer: makes the status and the body of a reply out of a request's headers and body.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.requests: list[dict[str, object]] = []
        self.answer: Callable[[Any, dict[str, object]], tuple[int, object]] = lambda _headers, _body: (500, {})


@contextmanager
def running_answers(refusing_seconds: float = 0.0) -> Iterator[Answers]:
    """Run the server on a free port.

    Args:
        refusing_seconds: how long it refuses connections first.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answers.requests.append(body)
            status, value = answers.answer(self.headers, body)
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Say nothing of clients that stopped waiting."""

    server = Server(("127.0.0.1", 0), Handler, bind_and_activate=False)
    server.server_bind()
    answers = Answers(f"http://127.0.0.1:{server.server_port}")

    def serve() -> None:
        time.sleep(refusing_seconds)
        server.server_activate()
        listens.set()
        server.serve_forever(0.05)

    listens = threading.Event()
    thread = threading.Thread(target=serve)
    thread.start()
    if not refusing_seconds:
        listens.wait()
    try:
        yield answers
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
