"""The unit tests run commands in forks, which is quicker, unless another installation is to be tested."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.program import forked, processes

_MEASURES = "COVERAGE_PROCESS_START"
_CONFIGURATION = str(Path(__file__).with_name("coverage.toml"))


@pytest.fixture(scope="module", autouse=True)
def _forks() -> Iterator[None]:
    """For `make test-unit`, coverage measures this process and the forks: a new process would take too long with it.

    It is for each module, because a process of pytest may run system tests after unit tests.
    """
    measures = os.environ.get(_MEASURES, "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "forks", not os.environ.get("CTD_DECODER_PROGRAM"))
        patch.setattr(forked, "coverage", _CONFIGURATION if measures else "")
        if measures == _CONFIGURATION:
            patch.delenv(_MEASURES)
        yield


@pytest.fixture(scope="session", autouse=True)
def _end() -> Iterator[None]:
    yield
    forked.end()
