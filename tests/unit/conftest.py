"""The unit tests run commands in forks, which is quicker, unless another installation is to be tested."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support import forked, processes

_MEASURES = "COVERAGE_PROCESS_START"


@pytest.fixture(scope="module", autouse=True)
def _forks() -> Iterator[None]:
    """Coverage measures this process and the forks; in a new process it would take longer to start than the program.

    It is for each module, because a process of pytest may run system tests after unit tests.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "forks", not os.environ.get("CTD_DECODER_PROGRAM"))
        patch.setattr(forked, "coverage", os.environ.get(_MEASURES, ""))
        patch.delenv(_MEASURES, raising=False)
        yield
