"""The agent's socket, when it ends."""

from __future__ import annotations

import fcntl
import os
import socket
from typing import TYPE_CHECKING

import pytest

from decoder import limits
from decoder.agent.endpoint import Endpoint

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("is_locked", [False, True])
def test_it_does_not_wait_for_ever_for_the_lock(
    is_locked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the lock it leaves its socket behind, which the next client replaces."""
    monkeypatch.setattr(limits, "SOCKET_LOCK_SECONDS", 0.1)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{tmp_path}/socket")
    directory, lock = (os.open(tmp_path, os.O_RDONLY) for _ in range(2))
    try:
        endpoint = Endpoint(listener, directory, "socket")
        if is_locked:
            fcntl.flock(lock, fcntl.LOCK_EX)
        endpoint.remove()
        assert (tmp_path / "socket").exists() == is_locked
    finally:
        os.close(directory)
        os.close(lock)
        listener.close()
