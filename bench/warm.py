"""The agent of the package, and the client that hands layers over to it."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.run import RunError
from decoder.agent.status import all_statuses

WARM = "warm"
_PROJECT = Path(__file__).parent.parent
_CLIENT = _PROJECT / "packaging/client"
_SECONDS = 60.0


@contextmanager
def warm_program(program: Path) -> Iterator[dict[str, Path]]:
    """Yield the agent's client, whose first layer starts the agent, and stop that one at the end.

    The client is built for a directory of the bench's own. What it cannot hand over it leaves to the program, as an
    installed one does.

    Raises:
        RunError: the client cannot be built.
    """
    with TemporaryDirectory(dir="/run") as name:  # an agent's socket is never below /tmp
        client = Path(name, "client")
        _build(client, Path(name), program)
        try:
            yield {WARM: client}
        finally:
            for agent in all_statuses([Path(name, "ctd-decoder")]):
                os.kill(agent.pid, signal.SIGTERM)


def _build(client: Path, run: Path, program: Path) -> None:
    macros = [f'-DRUN="{run}"', f'-DPROGRAM="{program}"']
    # As the package's own client is built, by what has just built the package.
    zig: list[str | Path] = [_PROJECT / ".cache/packaging/venv/bin/python", "-m", "ziglang", "cc"]
    target = ["-target", f"{platform.machine()}-linux-musl", "-Os", "-static", "-s"]
    command: list[str | Path] = [*zig, *target, *macros, *sorted(_CLIENT.glob("*.c")), "-o", client]
    try:
        subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise RunError(f"the agent's client cannot be built: {getattr(error, 'stderr', None) or error}") from None
