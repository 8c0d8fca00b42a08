"""The approver: it approves requests by rules, round by round. Requests that no rule accepts wait for a person."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

from decoder import limits
from decoder.errors import DecoderError, ImageError, KeyFileError, quoted
from decoder.formats import wire
from decoder.grants import artifacts, audit
from decoder.grants.approval import rules
from decoder.grants.errors import StatementError
from decoder.grants.owner import Owner, Wanted, acting, find_requests
from decoder.grants.statements import Tombstone
from decoder.keys.file import read_key_file
from decoder.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from decoder.grants.approval.policy import Policy
    from decoder.grants.artifacts import Access
    from decoder.grants.keys import OwnKey
    from decoder.grants.statements import Grant, Request

APPROVED, RENEWED, WAITING, LIMITED, BURIED, FAILED = "approved", "renewed", "waiting", "limited", "revoked", "failed"
DECISIONS = (APPROVED, RENEWED, WAITING, LIMITED, BURIED, FAILED)
_RENEW_SHARE = 1 / 3  # the share of a grant's time after which it is renewed


class State(Record):
    """The state that is kept in a file, beyond the end of the process.

    Attributes:
        approvals: the times of approvals in the last hour, in seconds since 1970.
        buried: pairs of ID and fingerprint with a tombstone, which a registry might hide later.
    """

    approvals: list[int]
    buried: set[tuple[str, str]]


class Approver:
    """Decides about requests.

    Args:
        access: the settings for registries.
        say: prints a line for each decision.
        dry_run: whether to decide without writing anything.

    Attributes:
        counts: the number of decisions, by kind.
    """

    def __init__(self, access: Access, say: Callable[[str], None], dry_run: bool = False) -> None:
        self._access = access
        self._say = say
        self._dry_run = dry_run
        self._due: dict[str, float] = {}
        self._told: dict[str, str] = {}
        self._waiting: dict[str, float] = {}
        self._would_approve: list[int] = []
        self.counts = dict.fromkeys(DECISIONS, 0)

    @property
    def waiting(self) -> int:
        """The number of requests that wait for a person, as far as they were seen recently."""
        now = time.monotonic()
        return sum(until > now for until in list(self._waiting.values()))

    def round(self, policy: Policy, key: OwnKey) -> bool:
        """Decide about all requests in all repositories.

        Returns:
            Whether all repositories could be read, and all decisions written.
        """
        went_well = True
        for repository, requests in policy.repositories:
            try:
                with acting(key, policy.publishers, repository, self._access, others=policy.owners) as owner:
                    self._repository(policy, owner, repository, requests)
            except DecoderError as error:
                self.counts[FAILED] += 1
                audit.record("approve", str(error), self._say, repository=repository)
                went_well = False
        return went_well

    def _repository(self, policy: Policy, owner: Owner, repository: str, place: str) -> None:
        now = time.monotonic()
        with artifacts.opened(place, self._access) as opened:
            found = find_requests(opened, repository, Wanted(), lambda tag: self._due.get(f"{place} {tag}", 0) > now)
        failure: DecoderError | None = None
        for request in found.requests:
            tag = artifacts.request_tag(request.id, request.node)
            try:
                decision, reason = self._decide(policy, owner, request)
            except ImageError as error:
                failure = error
                continue
            self.counts[decision] += 1
            self._plan(f"{place} {tag}", now, waits=decision in (WAITING, LIMITED))
            self._tell(request, decision, reason)
        for problem in found.problems:
            self._due[f"{place} {problem.partition(':')[0]}"] = now + limits.GRANTS_DECIDED_SECONDS
        if failure:
            raise failure

    def _plan(self, place: str, now: float, waits: bool) -> None:
        """Set when a request is checked again, and until when it counts as waiting."""
        if len(self._due) > limits.REGISTRY_TAGS:
            self._due.clear()
            self._waiting.clear()
        self._due[place] = now + (limits.GRANTS_WAITING_SECONDS if waits else limits.GRANTS_DECIDED_SECONDS)
        self._waiting.pop(place, None)
        if waits:
            self._waiting[place] = now + 3 * limits.GRANTS_WAITING_SECONDS

    def _decide(self, policy: Policy, owner: Owner, request: Request) -> tuple[str, str]:
        """Decide about one request, and grant access if a rule accepts it."""
        place = (request.id, request.node)
        state = read_state(policy.state)
        existing = owner.state(*place)
        if isinstance(existing, Tombstone):
            if place not in state.buried and not self._dry_run:
                write_state(policy.state, state._replace(buried={*state.buried, place}))
            return BURIED, existing.reason
        if place in state.buried:
            return BURIED, "a tombstone was there before"
        if existing and not _is_due(existing):
            return RENEWED, ""
        try:
            accepted = _accepted(policy, request)
            is_renewal = existing is not None and existing.expires > time.time()
            if not is_renewal and not self._count(policy, state):
                return LIMITED, f"{policy.per_hour} approvals in an hour"
            if not self._dry_run:
                owner.grant(request.id, request.key, accepted.expires)
        except StatementError as error:
            return WAITING, str(error)
        return RENEWED if is_renewal else APPROVED, accepted.name

    def _count(self, policy: Policy, state: State) -> bool:
        """Count an approval before it is made, unless there were too many within the hour."""
        now = int(time.time())
        recent = [made for made in (*state.approvals, *self._would_approve) if now - limits.HOUR_SECONDS < made <= now]
        if len(recent) >= policy.per_hour:
            return False
        if self._dry_run:
            self._would_approve.append(now)
        else:
            write_state(policy.state, state._replace(approvals=[*recent, now]))
        return True

    def _tell(self, request: Request, decision: str, reason: str) -> None:
        """Record a decision, unless it is the same as before."""
        place = f"{request.id} {request.node}"
        if self._told.get(place) == decision + reason or (decision == RENEWED and not reason):
            return
        if len(self._told) > limits.REGISTRY_TAGS:
            self._told.clear()
        self._told[place] = decision + reason
        done = decision in (APPROVED, RENEWED)
        more = {"name": reason} if done else {}
        members = {"repository": request.repository, "id": request.id, "node": request.node, **more}
        operation = f"{'would ' if self._dry_run else ''}{'renew' if decision == RENEWED else 'approve'}"
        audit.record(operation, "ok" if done else f"{decision}: {reason}", self._say, **members)


def _accepted(policy: Policy, request: Request) -> rules.Accepted:
    """Apply the policy to a request.

    Raises:
        StatementError: it has to wait for a person.
    """
    if request.node in policy.denied:
        raise StatementError("the policy denies it")
    if request.made > time.time() + limits.GRANTS_CLOCK_SECONDS:
        raise StatementError("the request is from the future")
    return rules.accepting(policy.rules, request)


def _is_due(grant: Grant) -> bool:
    """Check whether a grant has expired, or has at most a third of its time left."""
    return bool(grant.expires) and grant.expires - time.time() < _RENEW_SHARE * (grant.expires - grant.made)


def read_state(path: str) -> State:
    """Read the state of an earlier process.

    Raises:
        ImageError: it cannot be read; without it there is no limit.
    """
    if not os.path.exists(path):
        return State([], set())
    try:
        value = wire.parse_object(read_key_file(path))
        approvals = [each for each in wire.list_value(value.get("approvals")) if type(each) is int]
        buried = {tuple(map(wire.text_value, wire.list_value(each))) for each in wire.list_value(value.get("buried"))}
    except (KeyFileError, ValueError) as error:
        raise ImageError(f"the state {quoted(path)}: {error}") from error
    return State(approvals, {each for each in buried if len(each) == 2})


def write_state(path: str, state: State) -> None:
    """Replace the state, completely or not at all.

    Raises:
        ImageError: it cannot be written.
    """
    members = {"approvals": state.approvals[-limits.GRANTS_LISTED :], "buried": sorted(state.buried)}
    text = json.dumps(members, separators=(",", ":"))
    try:
        with open(f"{path}.new", "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(f"{path}.new", path)
    except OSError as error:
        raise ImageError(f"the state {quoted(path)}: {error.strerror}") from error
