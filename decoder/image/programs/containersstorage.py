"""`containers-storage:NAME`: an image of podman, buildah or CRI-O, copied to an archive by skopeo or podman."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NoReturn

from decoder import limits
from decoder.errors import ImageError, UsageError, quoted
from decoder.image.files import archive

if TYPE_CHECKING:
    from decoder.image.transport import ImageSource, Options

_PROGRAMS = ("skopeo", "podman")


@contextmanager
def open_source(name: str, place: str, options: Options) -> Iterator[ImageSource]:
    """Export an image with skopeo or podman to a temporary archive, and open the archive.

    Raises:
        UsageError: `place` is not the name of an image.
        ImageError: neither program is installed, or the program failed.
    """
    if not place or place.startswith("-"):
        raise UsageError(f"{name}:{place} is not of the form {name}:NAME")
    program = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if program is None:
        command = f"skopeo copy {name}:{place} oci-archive:image.tar"
        raise ImageError(f"{name}: needs skopeo or podman; where one is installed, run: {command}")
    with TemporaryDirectory() as directory:
        file = os.path.join(directory, "image.tar")
        _run(_command(program, f"{name}:{place}", file))
        with archive.open_source("oci-archive", file, options) as source:
            yield source


def open_target(name: str, place: str, _options: Options) -> NoReturn:
    """Reject writing: the storage holds unpacked layers, which cannot be encrypted.

    Raises:
        UsageError: always.
    """
    command = f"skopeo copy oci-archive:image.tar {name}:{place}"
    raise UsageError(f"{name}: can only be read; write a decrypted image to oci-archive:image.tar, and run: {command}")


def _command(program: str, image: str, file: str) -> list[str]:
    if os.path.basename(program) == "podman":
        return [program, "save", "--quiet", "--format", "oci-archive", "--output", file, image.partition(":")[2]]
    return [program, "copy", "--quiet", image, f"oci-archive:{file}"]


def _run(command: list[str]) -> None:
    try:
        ended = subprocess.run(  # noqa: S603 - the program of that name on PATH, and no shell
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=limits.STORAGE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ImageError(f"{quoted(command[0])} failed: {error}") from error
    if ended.returncode:
        said = ended.stderr[-limits.REGISTRY_ERROR_BYTES :].decode(errors="replace").strip().splitlines()
        raise ImageError(f"{quoted(command[0])} failed: {quoted(said[-1]) if said else ended.returncode}")
