"""The audit of clients that are refused before they can call, at a bounded rate."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from decoder import limits
from decoder.provider.errors import ClientRefusedError

if TYPE_CHECKING:
    from decoder.provider.audit import Provider
    from decoder.provider.server.clients.peer import Peer


class Refusals:
    """Writes at most AUDITED_HANDSHAKES lines per second; the next line says how many were left out.

    Args:
        provider: the provider, which writes the audit.
    """

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._second = 0.0
        self._written = self._omitted = 0

    def record(self, peer: Peer, cause: str) -> None:
        """Record that a client was refused, and why."""
        now = monotonic()
        if now > self._second + 1:
            self._second, self._written = now, 0
        if self._written >= limits.AUDITED_HANDSHAKES:
            self._omitted += 1
            return
        self._written += 1
        more: dict[str, object] = {"omitted": self._omitted} if self._omitted else {}
        if peer.claimed:
            more["claimed"] = ascii(", ".join(peer.claimed))[1:-1][: limits.AUDITED_CAUSE_CHARACTERS]
        self._omitted = 0
        error = ClientRefusedError(cause)
        self._provider.record("handshake", (), error, client=peer.identity, address=peer.address, **more)
