"""What the zygote does when the system refuses something."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, NoReturn

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
