"""An owner of images, who reads requests, grants access, denies it and revokes it."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from decoder import limits
from decoder.errors import DecoderError, UsageError
from decoder.grants import artifacts, audit, keys, statements
from decoder.grants.errors import StatementError
from decoder.grants.statements import GRANT, TOMBSTONE, Grant, Request, SealedKey, Tombstone
from decoder.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from decoder.grants.artifacts import Access, Repository
    from decoder.grants.keys import Keys, OwnKey
    from decoder.keywrap.publickeys import PublicKeyObject


class Wanted(Record):
    """A filter for artifacts.

    Attributes:
        ids: IDs of keys; an empty tuple means all.
        nodes: fingerprints of nodes; an empty tuple means all.
    """

    ids: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()

    def has(self, tag: str) -> bool:
        """Check whether the artifact with a tag passes the filter."""
        _, identifier, node = artifacts.parse_tag(tag)
        return identifier in (self.ids or (identifier,)) and node in (self.nodes or (node,))


class Found(Record):
    """The contents of a repository of requests.

    Attributes:
        requests: the requests with a valid signature, oldest first.
        problems: a line for each artifact that is not a request.
        left: how many artifacts were not read.
    """

    requests: list[Request]
    problems: list[str]
    left: int


def find_requests(
    requests: Repository, repository: str, wanted: Wanted, skip: Callable[[str], bool] = lambda _tag: False
) -> Found:
    """Read at most GRANTS_LISTED requests from a repository. They are untrusted.

    Args:
        requests: the repository of requests.
        repository: the repository of the grants; requests for others are left out.
        wanted: the filter.
        skip: returns whether to skip the artifact with a tag.

    Raises:
        ImageError: the registry fails.
    """
    tags = [tag for tag in requests.tags("request") if wanted.has(tag) and not skip(tag)]
    found = Found([], [], len(tags[limits.GRANTS_LISTED :]))
    for tag in tags[: limits.GRANTS_LISTED]:
        _, identifier, node = artifacts.parse_tag(tag)
        try:
            if (artifact := requests.get(tag)) is None:
                continue
            request = statements.parse_request(artifact.data)
            if request.repository == repository:  # other repositories may have their requests here, too
                statements.check(request, repository, identifier, node)
                found.requests.append(request)
        except StatementError as error:
            found.problems.append(f"{tag}: {error}")
    found.requests.sort(key=lambda request: request.made)
    return found


class Owner:
    """Acts for one owner in one repository.

    Args:
        key: the owner's private key.
        publishers: the trusted publishers of sealed keys.
        repository: the repository of sealed keys and grants.
        others: further owners, whose tombstones are respected.
    """

    def __init__(self, key: OwnKey, publishers: Keys, repository: Repository, others: Keys | None = None) -> None:
        self._key = key
        self._publishers = publishers
        self._repository = repository
        self._fingerprint = keys.fingerprint(key.public)
        self._own: Keys = {self._fingerprint: key.public}
        self._owners: Keys = {**(others or {}), **self._own}
        self._sealed: dict[str, tuple[SealedKey, dict[str, Any] | None]] = {}

    def ids(self) -> list[str]:
        """Return the IDs of the sealed keys in the repository."""
        return [artifacts.parse_tag(tag)[1] for tag in self._repository.tags("sealed")]

    def grant(self, identifier: str, node: PublicKeyObject, expires: int) -> Grant:
        """Grant a node access.

        Args:
            identifier: the ID of the image's key.
            node: the node's public key.
            expires: the end of the grant, in seconds since 1970; 0 for none.

        Raises:
            StatementError: the sealed key is missing, or cannot be trusted.
            DecoderError: the registry does not accept the grant.
        """
        sealed, subject = self._open_sealed(identifier)
        now = int(time.time())
        fingerprint = keys.fingerprint(node)
        keys.algorithms(node)
        grant = Grant(
            sealed.repository, identifier, fingerprint, sealed.kek, sealed.layers, sealed.signer, now, expires
        )
        # Encrypted to the owner as well, so that the owner can see later when the grant expires.
        encrypted = keys.encrypt(statements.build_grant(grant, self._key), [node, self._key.public])
        self._repository.put(GRANT, artifacts.grant_tag(identifier, fingerprint), encrypted, subject)
        return grant

    def bury(self, identifier: str, node: str, reason: str) -> tuple[bool, bool]:
        """Store a tombstone under the tag of a node's grant, and delete the grant.

        Args:
            identifier: the ID of the image's key.
            node: the node's fingerprint.
            reason: DENIED or REVOKED.

        Returns:
            Whether there was an artifact, and whether the registry has deleted it.

        Raises:
            ImageError: the registry does not accept the tombstone.
        """
        tag = artifacts.grant_tag(identifier, node)
        try:
            old = self._repository.get(tag)
        except StatementError:  # another artifact was stored there
            old = None
        tombstone = Tombstone(self._repository.name, identifier, node, reason, int(time.time()))
        subject = old.subject if old else None
        self._repository.put(TOMBSTONE, tag, statements.build_tombstone(tombstone, self._key), subject)
        return old is not None, old is not None and self._repository.delete(old.digest)

    def state(self, identifier: str, node: str) -> Grant | Tombstone | None:
        """Read the decision about a node.

        Returns:
            This owner's grant, or the tombstone of an owner; None if there is neither.

        Raises:
            ImageError: the registry fails.
        """
        try:
            artifact = self._repository.get(artifacts.grant_tag(identifier, node))
            if artifact is None:
                return None
            found: Grant | Tombstone
            if artifact.data.startswith(b"{"):
                found = statements.parse_grant(self._key.open(artifact.data), self._own)
            else:
                found = statements.parse_tombstone(artifact.data, self._owners)
            statements.check(found, self._repository.name, identifier, node)
        except StatementError:
            return None
        return found

    def decisions(self, wanted: Wanted) -> tuple[list[Grant | Tombstone], int]:
        """Read this owner's decisions, at most GRANTS_LISTED; also return the number of other artifacts."""
        tags = self.grant_tags(wanted)[: limits.GRANTS_LISTED]
        found = [self.state(*artifacts.parse_tag(tag)[1:]) for tag in tags]
        own = sorted((each for each in found if each), key=lambda each: each.made)
        return own, len(found) - len(own)

    def grant_tags(self, wanted: Wanted) -> list[str]:
        """Return the tags of the grants and tombstones that pass a filter."""
        return [tag for tag in self._repository.tags("grant") if wanted.has(tag)]

    def _open_sealed(self, identifier: str) -> tuple[SealedKey, dict[str, Any] | None]:
        """Open a sealed key; check its repository and ID, because a registry can serve the key of another image."""
        if identifier not in self._sealed:
            tag = artifacts.sealed_tag(identifier)
            artifact = self._repository.get(tag)
            if artifact is None:
                raise StatementError(f"{self._repository.name} has no sealed key {identifier}: was {tag} deleted?")
            sealed = statements.parse_sealed_key(self._key.open(artifact.data), self._publishers)
            statements.check(sealed, self._repository.name, identifier)
            if self._fingerprint not in sealed.owners:
                raise StatementError("the sealed key was created for other owners; one of them has passed it on")
            self._sealed[identifier] = sealed, artifact.subject
        return self._sealed[identifier]


@contextmanager
def acting(
    key: OwnKey,
    publishers: Keys,
    repository: str,
    access: Access,
    actions: str = "pull,push",
    others: Keys | None = None,
) -> Iterator[Owner]:
    """Open a repository for an owner; see `Owner` and `artifacts.opened`."""
    with artifacts.opened(repository, access, actions) as opened:
        yield Owner(key, publishers, opened, others)


def grant_all(
    owner: Owner, pairs: Iterable[tuple[str, PublicKeyObject]], expires: int
) -> Iterator[Grant | DecoderError]:
    """Grant several nodes access, and continue after failures; each decision is recorded.

    Yields:
        Each grant, or the error that prevented it.
    """
    for identifier, node in pairs:
        members: dict[str, Any] = {"id": identifier, "node": keys.fingerprint(node)}
        try:
            grant = owner.grant(identifier, node, expires)
        except DecoderError as error:
            audit.record("approve", str(error), **members)
            yield error
        else:
            audit.record("approve", "ok", repository=grant.repository, expires=grant.expires, **members)
            yield grant


def after_days(days: int) -> int:
    """Return the time a number of days from now, in seconds since 1970."""
    return int(time.time()) + days * limits.DAY_SECONDS


def check_days(days: int) -> int:
    """Return the number of days for which a grant is valid, if it is from 1 to GRANTS_MOST_DAYS.

    Raises:
        UsageError: it is not.
    """
    if not 1 <= days <= limits.GRANTS_MOST_DAYS:
        raise UsageError(f"a grant is valid for 1 to {limits.GRANTS_MOST_DAYS} days, not {days}")
    return days
