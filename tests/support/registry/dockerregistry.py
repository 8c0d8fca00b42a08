"""Debian's docker-registry on loopback, with one image that skopeo pushes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.support.image import images

if TYPE_CHECKING:
    from tests.support.image.images import Layout

_SECONDS = 300


class Registry(NamedTuple):
    """A registry over plain HTTP, and where the image is in it."""

    reference: str
    layers: int


@contextmanager
def registry_with(layout: Layout, directory: Path) -> Iterator[Registry]:
    """Run a registry with an image while the context is open; it keeps its files in a directory."""
    (directory / "registry.yml").write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {directory}}}}}\nhttp: {{addr: '127.0.0.1:0'}}\n"
    )
    command = ["docker-registry", "serve", "registry.yml"]
    log = directory / "registry.log"  # a file: nobody would read a pipe once it listens
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, cwd=directory, stderr=errors, stdout=subprocess.DEVNULL) as process,
    ):
        try:
            reference = f"{_listening_at(log)}/{images.NAME}:tag"
            source, target = f"oci:{layout.directory}:{images.NAME}", f"docker://{reference}"
            copy = ["skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", source, target]
            subprocess.run(copy, check=True, timeout=_SECONDS)
            yield Registry(reference, len(layout.layers))
        finally:
            process.kill()


def _listening_at(log: Path) -> str:
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        _, found, address = log.read_text().partition("listening on ")
        if found and '"' in address:
            return address.split('"')[0].strip()
        time.sleep(0.05)
    raise AssertionError(log.read_text())
