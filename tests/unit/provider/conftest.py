"""The arguments of a server with a key in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.serving import (
    write_key,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def local(tmp_path: Path) -> tuple[str, ...]:
    return ("--provider", "local", "--key", str(write_key(tmp_path / "image.key")))
