"""Keys in files, and an image."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path
from tests.support.coco.attestation_parts import KEY


@pytest.fixture
def keypath(tmp_path: Path) -> Path:
    path = tmp_path / "image_key"
    path.write_bytes(KEY)
    return path


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "resources.json"
    resources = {"default/image_key/nginx": b64encode(KEY).decode()}
    path.write_text(json.dumps({**resources, "a/b/c": b64encode(KEY).decode()}))
    return f"offline:{path}"
