"""A Kubernetes API server of a test, over TLS, and what a pod's service account has to reach it."""

from __future__ import annotations

import ssl
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Self

from tests.support.network.certificates import issue


class Handler(BaseHTTPRequestHandler):
    """Answers requests, and logs none."""

    def log_message(self, *_: object) -> None:
        pass


class KubernetesServer:
    """Listens on the loopback interface while the context is open.

    Args:
        directory: gets the service account's files: `ca.crt` and `token`.
        handler: answers the requests.
    """

    def __init__(self, directory: Path, handler: type[Handler]) -> None:
        self.directory = directory
        authority = issue("authority")
        authority.write(directory / "ca.crt")
        (directory / "token").write_text("secret-token\n")
        certificate = issue("api", authority, ["127.0.0.1"]).write(directory / "api.pem")
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        self.http.socket = context.wrap_socket(self.http.socket, server_side=True)

    def __enter__(self) -> Self:
        Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a pod finds it."""
        return {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(self.http.server_port)}
