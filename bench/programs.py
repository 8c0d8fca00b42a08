"""The decoders that are compared, as users have them with nothing switched on, and one run of one of them."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import NamedTuple

from bench import process
from decoder import __version__

MIB, GIB = 1024 * 1024, 1024 * 1024 * 1024
SECONDS = 120.0  # for a server to start or to end
ROOT = Path(__file__).parent.parent
IMGCRYPT = ROOT / ".cache/imgcrypt/usr"  # where tests/install-system-packages unpacks the reference program
PIP_PROGRAM = Path(sys.executable).with_name("ctd-decoder")
# PACKAGE and PIP start without an agent in each turn. Warm is the same program in the next turn, which finds an agent.
PROGRAMS = REFERENCE, PACKAGE, WARM, PIP, PIP_WARM = "reference", "package", "package, warm", "pip", "pip, warm"
_SOURCES = ("decoder", "packaging", "requirements")


class RunError(Exception):
    """A program failed, or wrote something other than the plaintext."""


class Run(NamedTuple):
    """What a run took: times in seconds; the peak memory of the largest process in bytes."""

    wall: float
    cpu: float = 0
    peak: int = 0


class Layer(NamedTuple):
    """A layer of `size` bytes: its payload, the SHA-256 of its plaintext, and variables that the decoder needs."""

    size: int
    payload: bytes
    plain_sha256: str
    environment: Mapping[str, str] = {}


def run(program: Path, layer: Layer, *arguments: str, check_bytes: bool = False, copies: int = 1) -> Run:
    """Decrypt a layer; the pipes are ready and full before the clock starts.

    Args:
        program: the decoder.
        layer: what to decrypt.
        arguments: the program's command line.
        check_bytes: compare the SHA-256 of the plaintext, which takes time; otherwise only its length.
        copies: how many decoders run at once, each on a layer of its own.

    Raises:
        RunError: the exit status is not 0, or the plaintext is not that of the layer.
    """
    script = [sys.executable, "-IS", process.__file__, str(layer.size), str(copies), "digest" * check_bytes]
    command, environment = [*script, str(program), *arguments], {**os.environ, **layer.environment}
    with TemporaryFile() as errors:  # a file, because an agent that stays behind could hold a pipe open
        done = subprocess.run(
            command, input=layer.payload, stdout=subprocess.PIPE, stderr=errors, env=environment, check=False
        )
        errors.seek(0)
        said = errors.read(1000).decode()
    if done.returncode:
        raise RunError(f"{program} cannot be started: {said}")
    status, wall, cpu, peak, *written = done.stdout.decode().split()
    if status != "0":
        raise RunError(f"{program} ended with status {status}: {said}")
    if written != [layer.plain_sha256 if check_bytes else str(layer.size)]:
        raise RunError(f"{program} wrote something else than the layer's plaintext")
    return Run(float(wall), float(cpu), int(peak) * 1024)


def all_programs() -> dict[str, Path]:
    """Return the decoders that are compared, by name."""
    package, pip = package_tree() / "usr/bin/ctd-decoder", pip_program()
    return dict(zip(PROGRAMS, (IMGCRYPT / "bin/ctd-decoder", package, package, pip, pip), strict=True))


def stop_agent() -> None:
    """End the agents that earlier layers have left behind."""
    subprocess.run([package_tree() / "usr/bin/ctd-decoder", "agent", "stop"], capture_output=True, check=False)


def restart_with_own_run() -> None:
    """Start this program again with an empty /run, so that it stops no agent of the machine."""
    if os.geteuid() == 0 and not os.environ.get("BENCH_RUN"):
        script = 'mount -t tmpfs -o mode=755 tmpfs /run && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-m", "bench", *sys.argv[1:]]
        os.execvpe(command[0], command, {**os.environ, "BENCH_RUN": "own"})  # noqa: S606


@cache
def package_tree() -> Path:
    """Return the directory that the packages unpack to; they are built again if a source is newer."""
    names = [f"dist/{name}_{__version__}-*.deb" for name in ("ctd-decoder", "ctd-decoder-providers")]
    times = [path.stat().st_mtime for name in _SOURCES for path in (ROOT / name).rglob("*.*") if path.suffix != ".pyc"]
    if not all(any(path.stat().st_mtime > max(times) for path in ROOT.glob(name)) for name in names):
        subprocess.run(["packaging/build"], cwd=ROOT, stdout=sys.stderr, check=True)
    tree = ROOT / ".cache/bench/package"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    for package in (path for name in names for path in ROOT.glob(name)):
        subprocess.run(["dpkg-deb", "--extract", package, tree], check=True)
    return tree


@cache
def pip_program() -> Path:
    """Return the program of the wheel for this machine, which has the agent's client, as pip installs it.

    Its dependencies are those of this environment.
    """
    package_tree()  # the tools that build the packages build the wheels too
    directory = ROOT / ".cache/bench/pip"
    shutil.rmtree(directory, ignore_errors=True)
    subprocess.run(["packaging/wheels", directory], cwd=ROOT, stdout=sys.stderr, check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory / "venv"], check=True)
    (wheel,), (site,) = directory.glob(f"*{platform.machine()}*.whl"), directory.glob("venv/lib/*/site-packages")
    options = ["--quiet", "--no-deps", "--no-index"]
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--python",
        directory / "venv/bin/python",
    ]
    subprocess.run([*pip, "install", *options, wheel], check=True)
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return directory / "venv/bin/ctd-decoder"


@contextmanager
def serving(
    command: Sequence[str], text: str, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run a server; yield its process, and what follows `text` in its output once it has written that.

    Raises:
        RunError: it ends, or writes no such text within SECONDS.
    """
    with TemporaryDirectory() as directory:
        log, deadline = Path(directory, "log"), time.monotonic() + SECONDS
        with log.open("wb") as out:
            server = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, cwd="/"
            )
        try:
            while text not in (written := log.read_text()) or not written.endswith("\n"):
                if server.poll() is not None or time.monotonic() > deadline:
                    raise RunError(f"{command[0]} did not start: {written}")
                time.sleep(0.02)
            yield server, written.partition(text)[2]
        finally:
            server.kill()
            server.wait()
