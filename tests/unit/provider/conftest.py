"""The arguments of a server with a key in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.provider.serving import local_options

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def local(tmp_path: Path) -> tuple[str, ...]:
    return local_options(tmp_path)
