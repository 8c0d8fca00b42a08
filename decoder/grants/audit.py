"""The audit of decisions about nodes: one line of JSON for each in the journal, like the audit of keyproviders."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from decoder.node import journal

if TYPE_CHECKING:
    from collections.abc import Callable


def record(operation: str, outcome: str, say: Callable[[str], None] | None = None, **members: object) -> None:
    """Record a decision.

    Args:
        operation: `approve`, `renew`, `deny` or `revoke`.
        outcome: `ok`, or the reason of the failure.
        say: prints the line to standard error unless that is the journal; None to print nothing.
        members: further members of the line, without secrets.
    """
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    line = json.dumps({"time": now, "provider": "grants", "operation": operation, **members, "outcome": outcome})
    severity = journal.INFORMATION if outcome == "ok" else journal.WARNING
    if say:
        journal.log_and_say(line, severity, say)
    else:
        journal.log(line, severity)
