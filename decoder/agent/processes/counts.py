"""Counts of an agent's clients: served, refused, and those that decrypted without it."""

from __future__ import annotations

from decoder import limits
from decoder.agent.processes.certificates import Certificates
from decoder.node import journal

BUSY = "busy"  # the reason when as many layers are being decrypted as the settings allow
_LATER = "other"  # the name for reasons beyond AGENT_REASONS


class Counts:
    """The number of clients for each outcome.

    Attributes:
        served: how many layers workers have begun to decrypt.
        fallen_back: how many clients decrypted without the agent although it could have served them.
        sent_away: how many clients were refused, by the property in which they differ from the agent.
        certificates: the client certificates that were shown to keyproviders.
    """

    def __init__(self) -> None:
        self.served = 0
        self.fallen_back = 0
        self.sent_away: dict[str, int] = {}
        self.certificates = Certificates()

    def send_away(self, reason: str, count: int = 1) -> None:
        """Count clients that were refused. The first client for each reason but BUSY is noted in the journal."""
        if reason not in self.sent_away and len(self.sent_away) >= limits.AGENT_REASONS:
            reason = _LATER
        if reason not in self.sent_away and reason != BUSY:
            journal.warn(
                "the agent cannot serve a client, which decrypts without it and takes longer: the two differ in "
                f"{reason!a} (`ctd-decoder agent status` counts such clients)"
            )
        self.sent_away[reason] = self.sent_away.get(reason, 0) + count
