"""A Kubernetes API server that answers watches of one Secret, over TLS."""

from __future__ import annotations

import base64
import json
import queue
import ssl
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from tests.support.certificates import issue

NAME, NAMESPACE = "ctd-decoder-node-keys", "ctd-decoder-node"


def event(kind: str, name: str = NAME, **files: str) -> bytes:
    """Write an event of a watch (Kubernetes API concepts, "Efficient detection of changes")."""
    data = {key.replace("_", "."): base64.b64encode(text.encode()).decode() for key, text in files.items()}
    metadata = {"name": name, "namespace": NAMESPACE, "resourceVersion": "1"}
    return json.dumps({"type": kind, "object": {"kind": "Secret", "metadata": metadata, "data": data}}).encode() + b"\n"


class WatchServer:
    """Answers watches of one Secret: with its present state first, then with each event, until `hang_up`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.first = b""  # what each watch begins with
        self.status = 200
        self.watches: list[tuple[str, str]] = []
        self.events: queue.Queue[bytes] = queue.Queue()
        authority = issue("authority")
        authority.write(directory / "ca.crt")
        (directory / "token").write_text("secret-token\n")
        (directory / "namespace").write_text(NAMESPACE)
        certificate = issue("api", authority, ["127.0.0.1"]).write(directory / "api.pem")
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if f"metadata.name%3D{NAME}" not in self.path:
                    self.send_error(404)  # of the other Secrets there is none
                    return
                server.watches.append((self.path, self.headers["Authorization"]))
                self.send_response(server.status)
                if server.status != 200:
                    content = json.dumps({"message": "secrets is forbidden"}).encode()
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                    return
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                sent = server.first
                while sent != b"end":
                    if sent:
                        self.wfile.write(b"%x\r\n%b\r\n" % (len(sent), sent))
                    sent = server.events.get()
                self.wfile.write(b"0\r\n\r\n")

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, certificate.with_suffix(".key"))
        self.http.socket = context.wrap_socket(self.http.socket, server_side=True)

    def __enter__(self) -> WatchServer:
        Thread(target=self.http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a pod finds it."""
        return {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(self.http.server_port)}

    def hang_up(self) -> None:
        """End the watch."""
        self.events.put(b"end")
