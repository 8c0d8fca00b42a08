"""Check the resident agent, which saves most of a small layer's time. Layers are decrypted without it, too."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from decoder.doctor.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from decoder.doctor.host import Host

_DIRECTORY = "/run/ctd-decoder"


def check(node: Host) -> Iterator[Finding]:
    """Report what the agents of this user have done."""
    status = import_module("decoder.agent.status")  # the agent is built on top of everything else
    found = status.all_statuses([node.place(_DIRECTORY), *status.directories()])
    if not found:
        yield Finding("note", "agent", "none is running: the first layer of an image starts one")
    for agent in found:
        did = f"process {agent.pid} has served {agent.served} layers"
        refused = ", ".join(f"{count} for {reason}" for reason, count in sorted(agent.sent_away.items()))
        if agent.fallen_back or refused:
            did += f"; clients that decrypted without it: {agent.fallen_back} gave up, {refused or 'none'} sent away"
        is_slow = agent.served < agent.fallen_back + sum(agent.sent_away.values())
        yield Finding("warning" if is_slow else "ok", "agent", did)
