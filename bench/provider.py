"""How long a keyprovider takes to unwrap: `serve --provider local` under load, seen from its clients.

Run as a script it is one client: it connects, waits for a line on standard input, and then asks again and again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, cast

from bench.compare import Row
from bench.run import RunError
from decoder.provider import create
from decoder.provider.client import protocol

_ROOT = Path(__file__).parent.parent
_METHOD = "/keyprovider.KeyProviderService/UnWrapKey"
_OPTIONS = b'{"symkey":"%b","digest":"sha256:%b","cipheroptions":{"nonce":"%b"}}' % (b"A" * 44, b"0" * 64, b"A" * 24)
_SECONDS = 60.0


def measure(calls: int = 2000, workers: int = 4) -> Row:
    """Have each of the workers, a process of its own, make its share of the calls, one after another.

    Raises:
        RunError: a call failed, or the server did.
    """
    with TemporaryDirectory() as directory, ExitStack() as running:
        key = Path(directory) / "image.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(32))
        annotation = create("local", {"key": str(key)}).wrap(_OPTIONS, [])
        request = Path(directory) / "request"
        request.write_bytes(protocol.build_message(protocol.build_request("keyunwrap", annotation, "bench", [])))
        target = running.enter_context(server(key, Path(directory) / "log"))
        command = [sys.executable, "-m", "bench.provider", target, str(request), str(calls // workers)]
        clients = [running.enter_context(_client(command)) for _ in range(workers)]
        before = time.monotonic()
        for client in clients:
            _start(client)
        times = sorted(time for client in clients for time in _times(client))
        wall = time.monotonic() - before
    p50, p99 = (times[int(len(times) * share)] * 1e3 for share in (0.50, 0.99))
    what = f"`keyprovider serve`, provider local: {len(times)} unwraps by {workers} clients"
    return Row(what, "-", f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, {len(times) / wall:.0f}/s", "-", "-")


def ask_again_and_again(target: str, request: bytes, calls: int) -> None:
    """Be one client: make the calls, and print how long each took, in seconds."""
    import grpc

    times = []
    with grpc.insecure_channel(target) as channel:
        unwrap: Any = channel.unary_unary(_METHOD)
        unwrap(request, timeout=_SECONDS)
        print("ready", flush=True)
        sys.stdin.readline()
        for _ in range(calls):
            before = time.perf_counter()
            reply = unwrap(request, timeout=_SECONDS)
            times.append(time.perf_counter() - before)
            if protocol.parse_reply("keyunwrap", protocol.parse_message(reply)) != _OPTIONS:
                sys.exit("the reply is not what was wrapped")
    print(*times)


@contextmanager
def server(key: Path, log: Path) -> Iterator[str]:
    """Serve, and yield where; afterwards it must end by itself."""
    arguments = ["keyprovider", "serve", "--provider", "local", "--key", str(key), "--listen", "127.0.0.1:0"]
    command = [sys.executable, "-m", "decoder", *arguments]
    with log.open("wb") as errors:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=errors, cwd=_ROOT)
    try:
        deadline = time.monotonic() + _SECONDS
        while "listening on" not in log.read_text():
            if server.poll() is not None or time.monotonic() > deadline:
                raise RunError(f"the server did not start: {log.read_text()}")
            time.sleep(0.02)
        yield log.read_text().split()[-1]
        server.terminate()
        if server.wait(_SECONDS):
            raise RunError(f"the server ended with status {server.returncode}")
    finally:
        server.kill()
        server.wait()


@contextmanager
def _client(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT) as client:
        try:
            if cast("IO[str]", client.stdout).readline() != "ready\n":
                raise RunError("a client cannot reach the server")
            yield client
        finally:
            client.kill()


def _start(client: subprocess.Popen[str]) -> None:
    print(file=cast("IO[str]", client.stdin), flush=True)


def _times(client: subprocess.Popen[str]) -> list[float]:
    times = [float(text) for text in cast("IO[str]", client.stdout).read().split()]
    if client.wait(_SECONDS) or not times:
        raise RunError("a call failed")
    return times


if __name__ == "__main__":
    ask_again_and_again(sys.argv[1], Path(sys.argv[2]).read_bytes(), int(sys.argv[3]))
