"""A file that must not exist yet: it is complete, or not there."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, NoReturn

import pytest

from decoder.node.newfile import write_new

if TYPE_CHECKING:
    from pathlib import Path


def test_it_has_its_mode_and_replaces_nothing(tmp_path: Path) -> None:
    path = tmp_path / "key"
    before = os.umask(0o777)
    try:
        write_new(str(path), b"content", 0o644)
    finally:
        os.umask(before)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"content", 0o644)
    with pytest.raises(FileExistsError):
        write_new(str(path), b"other")
    assert path.read_bytes() == b"content"


def test_a_full_disk_leaves_no_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_new(str(tmp_path / "key"), b"content")
    assert list(tmp_path.iterdir()) == []
