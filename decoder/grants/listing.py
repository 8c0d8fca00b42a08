"""Requests and decisions as `ctd-decoder grants` prints them; untrusted texts are quoted."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from decoder import limits
from decoder.errors import quoted
from decoder.formats.certificates import UNREADABLE
from decoder.grants.approval.rules import load_certificate
from decoder.grants.keys import FINGERPRINT
from decoder.grants.statements import Grant, Tombstone

if TYPE_CHECKING:
    from decoder.grants.statements import Request

_UNITS = ((limits.DAY_SECONDS, "days"), (limits.HOUR_SECONDS, "hours"), (60, "minutes"))


def request_members(request: Request, state: Grant | Tombstone | None) -> dict[str, Any]:
    """Return a request for --json, with its texts unchanged."""
    return {
        "fingerprint": FINGERPRINT + request.node,
        "id": request.id,
        "name": request.name,
        "image": request.image,
        "made": request.made,
        "certificates": [certificate(data) for data in request.certificates],
        "state": state_text(state),
    }


def request_lines(request: Request, state: Grant | Tombstone | None) -> str:
    """Return a request as lines for people."""
    chain = [certificate(data) for data in request.certificates] or ["none"]
    rows = [
        ("id", request.id),
        ("name", quoted(request.name)),
        *(("certificate" if number == 0 else "issued by", text) for number, text in enumerate(chain)),
        ("image", quoted(request.image) if request.image else "not known"),
        ("age", age(request.made)),
        ("state", state_text(state)),
    ]
    return "\n".join([FINGERPRINT + request.node, *(f"  {name:<12} {text}" for name, text in rows)]) + "\n"


def state_text(state: Grant | Tombstone | None) -> str:
    """Return the decision about a node in words."""
    if isinstance(state, Tombstone):
        return state.reason
    if state is None:
        return "waits"
    if not state.expires:
        return "granted without expiry"
    return f"{'granted until' if state.expires > time.time() else 'ended on'} {date(state.expires)}"


def decision_members(decision: Grant | Tombstone) -> dict[str, Any]:
    """Return a decision for --json."""
    members = {"made": decision.made, "id": decision.id, "fingerprint": FINGERPRINT + decision.node}
    if isinstance(decision, Tombstone):
        return {**members, "decision": decision.reason}
    return {**members, "decision": "granted", "expires": decision.expires or None, "publisher": decision.publisher}


def decision_line(decision: Grant | Tombstone) -> str:
    """Return a decision as a line for people."""
    return f"{date(decision.made)}  {decision.id}  {FINGERPRINT}{decision.node}  {state_text(decision)}\n"


def certificate(data: bytes) -> str:
    """Return subject, issuer and end of a certificate that has not been validated, or `malformed`."""
    try:
        found = load_certificate(data)
        end = found.not_valid_after_utc
        return (
            f"{quoted(found.subject.rfc4514_string())} by {quoted(found.issuer.rfc4514_string())}, until {end:%Y-%m-%d}"
        )
    except UNREADABLE:
        return "malformed"


def date(seconds: int) -> str:
    """Format a time in seconds since 1970."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def age(made: int) -> str:
    """Return in words how long ago a time was, in seconds since 1970."""
    seconds = int(time.time()) - made
    if seconds < 0:
        return "from the future"
    return next((f"{seconds // unit} {name}" for unit, name in _UNITS if seconds >= 2 * unit), f"{seconds} seconds")
