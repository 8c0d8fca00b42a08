"""Build the agent's client for a directory. Each version of its sources is compiled once and kept in the cache."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
from pathlib import Path

from tests.support.program.processes import ROOT

_SOURCES = ROOT / "packaging/client"
_CACHE = ROOT / ".cache/test-client"
_COMPILER = ("cc", "-O2", "-static", "-Wall", "-Wextra", "-Werror", "-Wl,--build-id=none")


def build(directory: Path, name: str, starts: bool, ready_milliseconds: int) -> Path:
    """Write the client to a directory, and return its path.

    Args:
        directory: where its agent, its settings and the program `fallback` are.
        name: of the agent's socket, where the client starts no agent.
        starts: whether it starts an agent where there is none.
        ready_milliseconds: how long it waits for a worker.
    """
    # The path that it is compiled for is as long as that of the directory, which then takes its place.
    stand_in = "/run/".ljust(len(str(directory)), "@")
    client = directory / "client"
    compiled = _compiled(options(stand_in, name, starts, ready_milliseconds)).read_bytes()
    assert compiled.count(stand_in.encode()) >= 3  # the directory, the settings, the program
    client.write_bytes(compiled.replace(stand_in.encode(), str(directory).encode()))
    client.chmod(0o755)
    return client


def options(directory: str, name: str, starts: bool, ready_milliseconds: int) -> list[str]:
    """Return what the compiler is told."""
    texts = {"RUN": directory, "PROGRAM": f"{directory}/fallback", "SETTINGS": f"{directory}/agent.env"}
    texts |= {} if starts else {"AGENT_NAME": name}
    numbers = {"AGENT_STARTS": int(starts), "READY_MILLISECONDS": ready_milliseconds}
    return [f'-D{name}="{text}"' for name, text in texts.items()] + [f"-D{name}={n}" for name, n in numbers.items()]


def compile_to(path: Path, defines: list[str]) -> None:
    """Compile the client."""
    sources = sorted(map(str, _SOURCES.glob("*.c")))
    subprocess.run([*_COMPILER, *defines, "-o", path, *sources], check=True, timeout=300)


def _compiled(defines: list[str]) -> Path:
    """Compile the client unless that has been done; several processes may ask at a time."""
    digest = hashlib.sha256(repr((_COMPILER, defines)).encode())
    for source in sorted(_SOURCES.glob("*.[ch]")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    _CACHE.mkdir(parents=True, exist_ok=True)
    path = _CACHE / digest.hexdigest()
    with (_CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            unfinished = path.with_suffix(".unfinished")
            compile_to(unfinished, defines)
            unfinished.replace(path)
    return path
