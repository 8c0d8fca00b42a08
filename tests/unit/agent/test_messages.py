"""Messages between the agent and its clients, over a pair of sockets."""

from __future__ import annotations

import socket

import pytest

from decoder.agent import messages
from decoder.agent.messages import MessageError, receive, send


def test_a_message_arrives() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send(theirs, "text", 7)
        assert receive(ours, 100, 60) == [messages.VERSION, "text", 7]


def test_a_message_that_comes_after_its_time() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        send(theirs, "text")
        with pytest.raises(MessageError, match="the message did not arrive in time"):
            receive(ours, 100, -1)


def test_a_message_that_is_cut_short_or_too_long() -> None:
    for most, reason in ((100, "ends too early"), (1, "longer than 1 bytes")):
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                theirs.sendall(messages._frame(("text",))[:-1])
            with pytest.raises(MessageError, match=reason):
                receive(ours, most, 60)
