"""Registries and images in them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.support.registry.registries import PASSWORD, USER

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.image.images import Layout


def log_in(home: Path, host: str, **members: Any) -> None:
    (home / "config.json").write_text(
        json.dumps(members or {"auths": {host: {"username": USER, "password": PASSWORD}}})
    )


def blobs_of(layout: Layout) -> dict[str, bytes]:
    (root,) = json.loads((layout.directory / "index.json").read_bytes())["manifests"]
    return {each["digest"]: layout.read(each) for each in (root, layout.manifest["config"], *layout.layers)}
