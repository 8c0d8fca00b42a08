"""A Kubernetes API server that answers watches of one Secret, over TLS."""

from __future__ import annotations

import base64
import json
import queue
from pathlib import Path

from tests.support.kubernetes.api_server import Handler, KubernetesServer

NAME, NAMESPACE = "ctd-decoder-node-keys", "ctd-decoder-node"


def event(kind: str, name: str = NAME, **files: str) -> bytes:
    """Write an event of a watch (Kubernetes API concepts, "Efficient detection of changes")."""
    data = {key.replace("_", "."): base64.b64encode(text.encode()).decode() for key, text in files.items()}
    metadata = {"name": name, "namespace": NAMESPACE, "resourceVersion": "1"}
    return json.dumps({"type": kind, "object": {"kind": "Secret", "metadata": metadata, "data": data}}).encode() + b"\n"


class WatchServer(KubernetesServer):
    """Answers watches of one Secret: with its present state first, then with each event, until `hang_up`."""

    def __init__(self, directory: Path) -> None:
        self.first = b""  # what each watch begins with
        self.status = 200
        self.watches: list[tuple[str, str]] = []
        self.events: queue.Queue[bytes] = queue.Queue()
        (directory / "namespace").write_text(NAMESPACE)
        server = self

        class Watching(Handler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:  # noqa: N802 - the base class names it so
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

        super().__init__(directory, Watching)

    def hang_up(self) -> None:
        """End the watch."""
        self.events.put(b"end")
