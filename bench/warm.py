"""The agent of the package, and the client that hands layers over to it."""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.run import RunError

WARM = "warm"
_PROJECT = Path(__file__).parent.parent
_CLIENT = _PROJECT / "packaging/client/client.c"
_SECONDS = 60.0


@contextmanager
def warm_program(program: Path) -> Iterator[dict[str, Path]]:
    """Run the agent while the context is open, and yield its client; nothing, if the program has no agent.

    The client is built for a socket of the bench's own. What it cannot hand over it leaves to the program, as an
    installed one does.

    Raises:
        RunError: the client cannot be built, or the agent does not start.
    """
    if subprocess.run([program, "agent", "--help"], capture_output=True, timeout=_SECONDS, check=False).returncode:
        yield {}
        return
    with TemporaryDirectory() as name:
        client, socket = Path(name, "ctd-decoder"), Path(name, "agent.sock")
        _build(client, socket, program)
        agent = subprocess.Popen([program, "agent", "--listen", socket], stdin=subprocess.DEVNULL)
        try:
            _wait_for(socket, agent)
            yield {WARM: client}
        finally:
            agent.terminate()
            try:
                agent.wait(_SECONDS)
            finally:
                agent.kill()
                agent.wait()


def _build(client: Path, socket: Path, program: Path) -> None:
    macros = [f'-DAGENT_SOCKET="{socket}"', f'-DPROGRAM="{program}"']
    # As the package's own client is built, by what has just built the package.
    zig: list[str | Path] = [_PROJECT / ".cache/packaging/venv/bin/python", "-m", "ziglang", "cc"]
    target = ["-target", f"{platform.machine()}-linux-musl", "-Os", "-static", "-s"]
    command: list[str | Path] = [*zig, *target, *macros, _CLIENT, "-o", client]
    try:
        subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise RunError(f"the agent's client cannot be built: {getattr(error, 'stderr', None) or error}") from None


def _wait_for(socket: Path, agent: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not socket.exists():
        if agent.poll() is not None or time.monotonic() > deadline:
            raise RunError("the agent did not start")
        time.sleep(0.02)
