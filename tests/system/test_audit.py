"""`make audit` with pip-audit itself, and a vulnerability database on this machine."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

ROOT = Path(__file__).parents[2]
SECONDS = 300
VULNERABLE = "urllib3"


def found(package: dict[str, str]) -> dict[str, Any]:
    """Make an entry of the database, as https://ossf.github.io/osv-schema describes it."""
    affected = {"package": package, "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}]}
    return {"id": "PYSEC-0000-1", "summary": "a test", "details": "a test", "affected": [affected]}


@contextmanager
def database(*vulnerable: str) -> Iterator[str]:
    """Answer queries as OSV does; give the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            package = query["package"]
            body = json.dumps({"vulns": [found(package)]} if package["name"] in vulnerable else {}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
    finally:
        server.shutdown()
        server.server_close()


def audit(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    asked = " ".join([*options, "--vulnerability-service", "osv", "--osv-url", url])
    return subprocess.run(
        ["make", "audit", f"AUDIT={asked}"], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False
    )


def test_findings_fail_and_are_named() -> None:
    with database(VULNERABLE) as url:
        ended = audit(url, "--findings")
    assert ended.returncode != 0, ended.stdout
    assert f"audit: {VULNERABLE} " in ended.stdout
    assert "PYSEC-0000-1, fixed in no version" in ended.stdout


def test_all_were_audited_and_nothing_was_found() -> None:
    with database() as url:
        ended = audit(url)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "dependencies has a known vulnerability" in ended.stdout


def test_a_database_that_does_not_answer_is_no_finding() -> None:
    with database() as url:
        pass  # nobody listens there any more
    ended = audit(url)
    assert ended.returncode != 0
    assert "audit: nothing was audited: " in ended.stdout
    assert "Traceback" not in ended.stderr
    ended = audit(url, "--findings")
    assert ended.returncode == 0, ended.stderr
    assert "audit: nothing was audited: " in ended.stdout
