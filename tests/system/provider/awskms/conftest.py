"""AWS KMS imitated by moto, and one that answers as a test tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.services.aws_server import (
    SESSION_TOKEN,
    Answers,
    running_answers,
    running_moto,
    use_test_account,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
from tests.support.services.awskms_parts import Moto


@pytest.fixture(scope="module")
def moto() -> Iterator[Moto]:
    with running_moto() as endpoint:
        yield Moto(endpoint)


@pytest.fixture
def answers() -> Iterator[Answers]:
    with running_answers() as running:
        yield running


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_test_account(monkeypatch, tmp_path)
    monkeypatch.setenv("AWS_SESSION_TOKEN", SESSION_TOKEN)
