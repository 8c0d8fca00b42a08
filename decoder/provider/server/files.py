"""The files that a server reads again when they change: those of TLS, and the client policy."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from decoder import limits
from decoder.provider.server import tls
from decoder.provider.server.clients import clientpolicy
from decoder.provider.server.reloaded import Reloaded

if TYPE_CHECKING:
    from collections.abc import Callable

    from decoder.provider.server.clients.clientpolicy import ClientPolicy
    from decoder.provider.server.numbers.tally import Row
    from decoder.provider.server.tls import Security, Tls


class Files:
    """The contents of the files.

    Args:
        security: the names of the files.
        say: prints lines for the operator.
        row: the metrics for failed reloads and for the expiry of certificates.

    Attributes:
        tls: the certificates; None without TLS.
        policy: the client policy; None if every client may do everything.
    """

    def __init__(self, security: Security, say: Callable[[str], None], row: Row) -> None:
        self._security = security
        self._say = say
        self._row = row
        self.tls: Reloaded[Tls] | None = None
        self.policy: Reloaded[ClientPolicy] | None = None
        if security.certificate:
            self.tls = Reloaded("tls", lambda: tls.load(security), say, row)
        if security.client_policy:
            self.policy = Reloaded("policy", lambda: clientpolicy.load(security.client_policy), say, row)
        self._warn()

    def look(self) -> bool:
        """Read changed files; return whether TLS files changed. Warn periodically of certificates that expire soon."""
        if self.policy:
            self.policy.look()
        if self.tls and self.tls.look():
            self._warn()
            return True
        if monotonic() > self._warned + limits.CERTIFICATE_REMINDER_SECONDS:
            self._warn()
        return False

    def _warn(self) -> None:
        self._warned = monotonic()
        if self.tls:
            tls.note_expiry(self.tls.value, self._security, self._row, self._say)
