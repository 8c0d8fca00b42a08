"""How the program ends when it is interrupted, or its output or spool file fails."""

from __future__ import annotations

import sys
import tempfile
from contextlib import suppress

import pytest

from decoder import __main__ as program
from decoder.errors import StreamError


def test_an_interrupt_has_its_status_and_no_message(capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        raise KeyboardInterrupt

    assert program._guarded(work) == 130
    assert capfd.readouterr() == ("", "")


def test_standard_output_that_is_closed_or_full(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    assert program._guarded(lambda: 0) == 0
    with suppress(OSError), open("/dev/full", "w") as full:  # to close it fails, too
        monkeypatch.setattr(sys, "stdout", full)
        full.write("result")
        assert program._guarded(lambda: 0) == StreamError.status
        monkeypatch.undo()
    assert capfd.readouterr() == ("", "ctd-decoder: error: standard output: No space left on device\n")


def test_a_spool_file_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    with pytest.raises(StreamError, match="the spool file: No such file or directory"):
        program._open_spool()
