"""A node: it fetches and opens its grant, or requests one if it has none."""

from __future__ import annotations

import time
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from decoder import limits
from decoder.errors import DecoderError, ImageError, quoted
from decoder.grants import artifacts, keys, statements
from decoder.grants.errors import StatementError
from decoder.grants.statements import REQUEST, Grant, Request
from decoder.node.network import pauses
from decoder.provider.errors import KeyRefusedError, ProviderError
from decoder.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from decoder.grants.artifacts import Access, Repository
    from decoder.grants.keys import Keys, OwnKey
    from decoder.grants.place import Place
    from decoder.keywrap.publickeys import PublicKeyObject


class Owner(Record):
    """A trusted owner, for the repositories whose names match a shell pattern."""

    pattern: str
    key: PublicKeyObject


class Identity(Record):
    """The identity of a node.

    Attributes:
        key: the node's private key.
        name: the name that the node gives itself.
        certificates: the certificate of the key and its issuers, DER; the leaf first.
    """

    key: OwnKey
    name: str
    certificates: tuple[bytes, ...]


class _Without(Record):
    """The reason why there is no grant, and whether the owner has decided so."""

    reason: str
    is_final: bool = False


class _Asked(Record):
    """A request: the arguments of `grants approve` that name it, and a remark for the message."""

    arguments: str
    remark: str


class Node:
    """Fetches grants.

    Args:
        identity: the node's identity.
        owners: the trusted owners.
        requests: the repository for requests, `HOST/NAME`; "" for the default, which depends on that of the grants.
        wait_seconds: how long to wait for a grant.
        access: the settings for registries.
        find_image: returns the image of an annotation, or "" if it is unknown.
    """

    def __init__(
        self,
        identity: Identity,
        owners: Sequence[Owner],
        requests: str,
        wait_seconds: float,
        access: Access,
        find_image: Callable[[Place], str] = lambda _place: "",
    ) -> None:
        self._identity = identity
        self._fingerprint = keys.fingerprint(identity.key.public)
        self._owners = owners
        self._requests = requests
        self._wait_seconds = wait_seconds
        self._access = access
        self._find_image = find_image

    def owners_of(self, place: Place) -> Keys:
        """Return the keys of owners that are trusted for a place. Without any, its registry is never contacted.

        Raises:
            KeyRefusedError: no owner is trusted there.
        """
        found = {keys.fingerprint(each.key): each.key for each in self._owners if _matches(place, each.pattern)}
        if not found:
            text = f"no owner is configured for {quoted(place.repository)}: add PATTERN=FILE to the option `owner`"
            raise KeyRefusedError(place.key_url, text)
        return found

    def fetch(self, place: Place, seconds: float) -> Grant:
        """Fetch the grant of this node, or ask for one.

        Args:
            place: the repository and the ID of the key.
            seconds: how long it may take.

        Raises:
            KeyRefusedError: no owner is trusted for this repository.
            ProviderError: there is no grant; the text says what the owner has to do.
        """
        owners = self.owners_of(place)
        until = time.monotonic() + min(self._wait_seconds, seconds)
        asked: _Asked | None = None
        pause = pauses(limits.GRANTS_POLL_SECONDS, limits.GRANTS_LONGEST_POLL_SECONDS)
        try:
            while True:
                found = self._look(place, owners)
                if isinstance(found, Grant):
                    return found
                asked = asked or self._ask(place, may_push=not found.is_final)
                left = until - time.monotonic()
                if found.is_final or left <= 0:
                    raise KeyRefusedError(place.key_url, self._text(place, found.reason, asked))
                time.sleep(min(left, max(next(pause), limits.GRANTS_POLL_SECONDS / 4)))
        except DecoderError as error:
            raise ProviderError(str(error)) from error

    def check(self, grant: Grant) -> None:
        """Check that a grant is still valid.

        Raises:
            ProviderError: it has expired.
        """
        if reason := _expired(grant):
            raise ProviderError(reason)

    def _look(self, place: Place, owners: Keys) -> Grant | _Without:
        with artifacts.opened(place.repository, self._access) as repository:
            try:
                found = repository.get(artifacts.grant_tag(place.id, self._fingerprint))
                if found is None:
                    return _Without("there is no grant for this node")
                return self._read(found.data, place, owners)
            except StatementError as error:
                return _Without(f"the artifact for this node in {place.repository} is not a grant: {error}")

    def _read(self, data: bytes, place: Place, owners: Keys) -> Grant | _Without:
        if not data.startswith(b"{"):
            tombstone = statements.parse_tombstone(data, owners)
            statements.check(tombstone, place.repository, place.id, self._fingerprint)
            when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(tombstone.made))
            return _Without(f"the owner has {tombstone.reason} access for this node ({when})", is_final=True)
        grant = statements.parse_grant(self._identity.key.open(data), owners)
        statements.check(grant, place.repository, place.id, self._fingerprint)
        reason = _expired(grant)
        return _Without(reason) if reason else grant

    def _ask(self, place: Place, may_push: bool) -> _Asked:
        """Push a request to the repository of requests. If that fails, put it as text into the result."""
        where = self._requests or artifacts.requests_of(place.repository)
        identity = self._identity
        request = Request(
            place.repository,
            place.id,
            identity.key.public,
            identity.name,
            self._find_image(place),
            identity.certificates,
            int(time.time()),
        )
        text = statements.build_request(request._replace(certificates=()), identity.key).decode()
        if not may_push:
            return _Asked(f"--request {text}", "")
        try:
            with artifacts.opened(where, self._access, "pull,push") as repository:
                self._push(repository, request)
        except ImageError as error:
            return _Asked(f"--request {text}", f"; the request could not be left in {where}: {error}")
        option = f" --requests {where}" if self._requests else ""
        return _Asked(f"{place.id} {keys.FINGERPRINT}{self._fingerprint}{option}", f"; the request is in {where}")

    def _push(self, repository: Repository, request: Request) -> None:
        tag = artifacts.request_tag(request.id, self._fingerprint)
        try:
            earlier = repository.get(tag)
        except StatementError:
            earlier = None
        if not earlier or not _is_fresh(earlier.data, request):
            repository.put(REQUEST, tag, statements.build_request(request, self._identity.key))

    def _text(self, place: Place, reason: str, asked: _Asked) -> str:
        return (
            f"{reason}{asked.remark}; an owner of the image has to compare the fingerprint of this node, "
            f"{keys.FINGERPRINT}{self._fingerprint}, and then run: "
            f"ctd-decoder grants approve --key OWNER.key {place.repository} {asked.arguments}"
        )


def _matches(place: Place, pattern: str) -> bool:
    return fnmatchcase(place.repository, pattern)


def _expired(grant: Grant) -> str:
    if not grant.expires or time.time() < grant.expires:
        return ""
    return f"the grant for this node ended on {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime(grant.expires))}"


def _is_fresh(data: bytes, request: Request) -> bool:
    """Check whether a request has the same content, and is recent."""
    try:
        earlier = statements.parse_request(data)
    except StatementError:
        return False
    is_recent = 0 <= request.made - earlier.made < limits.GRANTS_FRESH_SECONDS
    return (
        is_recent
        and earlier._replace(made=0, key=request.key) == request._replace(made=0)
        and (earlier.node == request.node)
    )
