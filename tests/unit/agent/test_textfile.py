"""Reasons come from clients: whatever they hold, the file stays one that Prometheus can read."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from decoder.agent.processes.textfile import Textfile
from decoder.node import journal


@pytest.mark.parametrize("reason", ['a"b', "a\\b", "a\nb", "\U0001f511", "Seccomp"])
def test_any_reason(reason: str, tmp_path: Path) -> None:
    file = Textfile(str(tmp_path), "agent-1.sock")
    file.write({"up": True, "served_total": 1e6}, {reason: 2})
    (path,) = tmp_path.iterdir()
    samples = [sample for family in text_string_to_metric_families(path.read_text()) for sample in family.samples]
    assert [sample.value for sample in samples] == [1, 1e6, 2]
    assert samples[2].labels["reason"] == ascii(reason)[1:-1]


def test_a_failure_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(journal, "warn", lines.append)
    file = Textfile(str(tmp_path / "absent"), "agent-1.sock")
    for count in range(3):
        file.write({"up": count}, {})
    (line,) = lines
    assert line.endswith("No such file or directory")


def test_a_full_disk_leaves_no_descriptor_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(journal, "warn", lambda _line: None)
    monkeypatch.setattr(os, "fchmod", fail)
    file = Textfile(str(tmp_path), "agent-1.sock")
    file.write({"up": 0}, {})
    before = len(os.listdir("/proc/self/fd"))
    for count in range(1, 4):
        file.write({"up": count}, {})
    assert len(os.listdir("/proc/self/fd")) == before
    assert not list(tmp_path.iterdir())


def test_a_file_that_says_the_same_stays(tmp_path: Path) -> None:
    file = Textfile(str(tmp_path), "agent-1.sock")
    file.write({"up": 1}, {})
    (path,) = tmp_path.iterdir()
    os.utime(path, (0, 0))
    file.write({"up": 1}, {})
    assert path.stat().st_mtime == 0
    file.write({"up": 2}, {})
    assert path.stat().st_mtime > 0
