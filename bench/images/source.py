"""Images to measure with, and the time that a command takes with them."""

import io
import os
import subprocess
import tarfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile

from bench.programs import RunError


def write_image(directory: Path, sizes: Iterable[int]) -> None:
    """Write an image whose layers have one file of random bytes each, as the OCI layout `oci:DIRECTORY:x`."""
    subprocess.run(["umoci", "init", "--layout", directory], check=True)
    subprocess.run(["umoci", "new", "--image", f"{directory}:x"], check=True)
    for size in sizes:
        with NamedTemporaryFile() as file:
            with tarfile.open(file.name, "w") as archive:
                member = tarfile.TarInfo(os.urandom(8).hex())
                member.size = size
                archive.addfile(member, io.BytesIO(os.urandom(size)))
            subprocess.run(["umoci", "raw", "add-layer", "--image", f"{directory}:x", file.name], check=True)


def seconds(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> float:
    """Return how long a command takes.

    Raises:
        RunError: its exit status is not 0.
    """
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    taken = time.perf_counter() - started
    if done.returncode:
        raise RunError(f"{command[0]} ended with status {done.returncode}: {done.stderr.strip()}")
    return taken
