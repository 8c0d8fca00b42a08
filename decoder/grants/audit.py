"""The audit of decisions about nodes: one line of JSON for each in the journal, like the audit of keyproviders."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from decoder.node import journal


def record(operation: str, outcome: str, **members: object) -> str:
    """Record a decision.

    Args:
        operation: `approve`, `renew`, `deny` or `revoke`.
        outcome: `ok`, or the reason of the failure.
        members: further members of the line, without secrets.

    Returns:
        The line.
    """
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    line = json.dumps({"time": now, "provider": "grants", "operation": operation, **members, "outcome": outcome})
    journal.log(line, journal.INFORMATION if outcome == "ok" else journal.WARNING)
    return line
