"""Check the resident agent, which saves most of a small layer's time. Layers are decrypted without it, too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decoder.agent import settings, status
from decoder.doctor.finding import Finding
from decoder.doctor.host import texts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from decoder.doctor.host import Host

_DIRECTORY = "/run/ctd-decoder"


def check(node: Host) -> Iterator[Finding]:
    """Report what the agents of this user have done."""
    found = status.all_statuses([node.place(_DIRECTORY), *status.directories()])
    if off := _switched_off(node):
        yield Finding("note", "agent", f"it is switched off by {off}")
    elif not found:
        yield Finding("note", "agent", "none is running: the first layer of an image starts one")
    for agent in found:
        did = f"process {agent.pid} has served {agent.served} layers"
        refused = ", ".join(f"{count} for {reason}" for reason, count in sorted(agent.sent_away.items()))
        if agent.fallen_back or refused:
            did += f"; clients that decrypted without it: {agent.fallen_back} gave up, {refused or 'none'} sent away"
        is_slow = agent.served < agent.fallen_back + sum(agent.sent_away.values())
        yield Finding("warning" if is_slow else "ok", "agent", did)


def _switched_off(node: Host) -> str:
    """Return what keeps some layers from using the agent, or ""."""
    for processor in node.processors.values():
        if any(word.lstrip("-") == "no-agent" for word in texts(processor.table, "args")):
            return "--no-agent in the args of a stream processor"
        if off := settings.switched_off_by(node.environment_of(processor), node.place(settings.FILE)):
            place = settings.FILE if off == "file" else "the environment of containerd or of a stream processor"
            return f"{settings.SWITCH_VARIABLE}=off in {place}"
    return ""
