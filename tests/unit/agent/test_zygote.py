"""What the zygote does when the system refuses something."""

from __future__ import annotations

import os
import resource
import socket
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from decoder.agent.endpoint import Endpoint
from decoder.agent.processes.zygote import _Zygote

if TYPE_CHECKING:
    import pytest


def test_no_process_for_a_keeper(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker sees the connection end, and asks the provider itself; the agent goes on."""

    def refuse() -> NoReturn:
        raise BlockingIOError

    monkeypatch.setattr(os, "fork", refuse)
    zygote = object.__new__(_Zygote)  # without its signal handlers, and without clearing our environment
    zygote._keepers = {}
    ours, theirs = socket.socketpair()
    with ours:
        zygote._hand_to_keeper(bytes(32), theirs.detach())
        assert ours.recv(1) == b""
    assert not zygote._keepers


def test_clients_that_cannot_be_accepted_wait(tmp_path: Path) -> None:
    """Without a free descriptor the agent goes on, and sends them away later."""
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(f"/proc/self/fd/{directory}/s")
        endpoint = Endpoint(listener, directory, "s")
        client.connect(f"/proc/self/fd/{directory}/s")
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(directory)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
        try:
            assert endpoint.send_away() == 0
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert endpoint.send_away() == 1
    os.close(directory)
