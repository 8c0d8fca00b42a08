"""The verbs of `ctd-decoder grants`, except the approver."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING

from decoder import limits
from decoder.commandline import show, split_credentials
from decoder.errors import DecoderError, KeyFileError, UsageError, quoted
from decoder.grants import artifacts, audit, keys, listing, statements
from decoder.grants.approval import rules
from decoder.grants.artifacts import Access
from decoder.grants.errors import StatementError
from decoder.grants.owner import Owner, Wanted, acting, after_days, check_days, find_requests, grant_all
from decoder.grants.ownkeys import open_own_key, wrap_key
from decoder.grants.statements import DENIED, ID, PRINT, REVOKED, Grant, Tombstone
from decoder.node.newfile import write_new

if TYPE_CHECKING:
    from decoder.grants.keys import Keys, OwnKey
    from decoder.grants.owner import Found
    from decoder.grants.statements import Request
    from decoder.keywrap.publickeys import PublicKeyObject

    Pair = tuple[str, PublicKeyObject]
    """The ID of a key, and the public key of a node that gets it."""

    Signers = tuple[OwnKey, Keys]
    """The owner's key, and the keys of trusted publishers."""

_KEPT = "a node that has the key already keeps it"


class NothingError(DecoderError):
    """Nothing fits the command line, so nothing was decided."""

    status = 4


class SomeFailedError(DecoderError):
    """Some nodes did not get a grant.

    Attributes:
        status: the exit status of the first failure.
    """

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


def run(parsed: Namespace) -> None:
    """Run a verb.

    Raises:
        UsageError: the command line cannot be understood.
        DecoderError: the verb failed.
    """
    if parsed.verb == "fingerprint":
        show(f"{keys.FINGERPRINT}{_fingerprint(parsed.file)}\n")
        return
    if parsed.verb == "wrap-key":
        _write(parsed.output, wrap_key(parsed.key, parsed.provider, parsed.password_file))
        return
    repository = artifacts.canonical(parsed.repository)
    requests = artifacts.canonical(parsed.requests or artifacts.requests_of(repository))
    parsed = Namespace(**{**vars(parsed), "repository": repository, "requests": requests})
    {"list": _list, "approve": _approve, "deny": _deny, "revoke": _revoke, "log": _log}[parsed.verb](parsed)


def access_of(parsed: Namespace) -> Access:
    """Return the settings for registries from the command line.

    Raises:
        UsageError: --creds is malformed.
    """
    return Access(not parsed.insecure, split_credentials(parsed.creds), parsed.authfile)


def _list(parsed: Namespace) -> None:
    signers = _signers(parsed) if parsed.key else None
    found = _found(parsed)
    states: list[Grant | Tombstone | None] = [None for _ in found.requests]
    if signers:
        with _acting(parsed, "pull", signers) as owner:
            states = [owner.state(request.id, request.node) for request in found.requests]
    pairs = list(zip(found.requests, states, strict=True))
    if parsed.json:
        members = [listing.request_members(*pair) for pair in pairs]
        _show_json({"requests": members, "problems": found.problems, "unread": found.left})
        return
    show("\n".join([listing.request_lines(*pair) for pair in pairs]) or f"there are no requests in {parsed.requests}\n")
    _show_problems(found)


def _approve(parsed: Namespace) -> None:
    expires = 0 if parsed.no_expiry else after_days(check_days(parsed.days))
    signers = _signers(parsed)
    inventory = _inventory(parsed.nodes) if parsed.nodes else []
    pairs = _pairs(parsed)
    results = []
    with _acting(parsed, "pull,push", signers) as owner:
        pairs += [(each, node) for node in inventory for each in _wanted(parsed).ids or owner.ids()]
        if not pairs:
            raise NothingError(f"there is no such request in {parsed.requests}, and nothing was granted")
        for (identifier, node), result in zip(pairs, grant_all(owner, pairs, expires), strict=True):
            shown = f"{identifier} {keys.FINGERPRINT}{keys.fingerprint(node)}"
            text = listing.state_text(result) if isinstance(result, Grant) else f"failed: {result}"
            if not parsed.json:
                show(f"{shown} {text}\n")
            results.append(result)
    failures = [result for result in results if isinstance(result, DecoderError)]
    if parsed.json:
        granted = [listing.decision_members(result) for result in results if isinstance(result, Grant)]
        _show_json({"granted": granted, "problems": list(map(str, failures))})
    if failures:
        raise SomeFailedError(f"{len(failures)} of {len(results)} grants failed: {failures[0]}", failures[0].status)


def _pairs(parsed: Namespace) -> list[Pair]:
    """Return the requests to approve: those that are named, that --ca and --name accept, or that --request holds."""
    if bool(parsed.all) != bool(parsed.ca) or bool(parsed.ca) != bool(parsed.name):
        raise UsageError("--all, --ca and --name need each other")
    if parsed.nodes and _wanted(parsed).nodes:
        raise UsageError("--nodes takes the nodes from its directory: give only IDs of keys, and no fingerprints")
    if not (parsed.words or parsed.all or parsed.request or parsed.nodes):
        raise UsageError("name requests by ID or FINGERPRINT, or give --all with --ca and --name, --request or --nodes")
    chosen = [_pasted(text, parsed.repository) for text in parsed.request]
    if parsed.all:
        rule = rules.Rule(("*",), rules.read_authorities("--ca", parsed.ca), tuple(parsed.name), limits.GRANTS_DAYS)
        chosen += [request for request in _found(parsed).requests if _is_accepted(rule, request, parsed)]
    elif parsed.words and not parsed.nodes:
        found = _found(parsed)
        chosen += found.requests
        if not found.requests and not parsed.json:
            _show_problems(found)
    return [(request.id, request.key) for request in chosen]


def _is_accepted(rule: rules.Rule, request: Request, parsed: Namespace) -> bool:
    try:
        rules.accepting([rule], request)
    except StatementError as error:
        if not parsed.json:
            show(f"{request.id} {keys.FINGERPRINT}{request.node} left alone: {error}\n")
        return False
    return True


def _pasted(text: str, repository: str) -> Request:
    try:
        request = statements.parse_request("".join(text.split()).encode(errors="replace"))
        statements.check(request, repository, request.id)
    except StatementError as error:
        raise StatementError(f"--request {quoted(text)}: {error}") from error
    return request


def _inventory(directory: str) -> list[PublicKeyObject]:
    """Read the public keys in a directory.

    Raises:
        UsageError: the directory cannot be read, or a file in it is not a public key.
    """
    try:
        paths = sorted(os.path.join(directory, name) for name in os.listdir(directory) if not name.startswith("."))
    except OSError as error:
        raise UsageError(f"--nodes {quoted(directory)}: {error.strerror}") from error
    if len(paths) > limits.KEYS_DIRECTORY_FILES:
        raise UsageError(f"--nodes {quoted(directory)}: it has more than {limits.KEYS_DIRECTORY_FILES} files")
    found = list(keys.read_pinned("--nodes", paths).values())
    if not found:
        raise UsageError(f"--nodes {quoted(directory)}: it is empty")
    return found


def _deny(parsed: Namespace) -> None:
    if not parsed.words:
        raise UsageError("name requests by ID or FINGERPRINT")
    signers = _signers(parsed)
    found = _found(parsed)
    pairs = [(request.id, request.node) for request in found.requests]
    if not pairs:
        raise NothingError(f"there is no such request in {parsed.requests}, and nobody was denied access")
    with ExitStack() as stack:
        owner = stack.enter_context(_acting(parsed, "pull,push,delete", signers))
        requests = stack.enter_context(artifacts.opened(parsed.requests, access_of(parsed), "pull,push,delete"))
        for identifier, node in pairs:
            owner.bury(identifier, node, DENIED)
            audit.record("deny", "ok", repository=parsed.repository, id=identifier, node=node)
            request = requests.get(artifacts.request_tag(identifier, node))
            if request:
                requests.delete(request.digest)
    _show_buried(parsed, pairs, DENIED, [])


def _revoke(parsed: Namespace) -> None:
    wanted = _wanted(parsed)
    if not parsed.words:
        raise UsageError("name grants by ID or FINGERPRINT")
    remarks = []
    with _acting(parsed, "pull,push,delete", _signers(parsed)) as owner:
        pairs = [artifacts.parse_tag(tag)[1:] for tag in owner.grant_tags(wanted)]
        if not pairs:
            raise NothingError(f"there is no such grant in {parsed.repository}, and nothing was revoked")
        for identifier, node in pairs:
            was_there, is_deleted = owner.bury(identifier, node, REVOKED)
            audit.record("revoke", "ok", repository=parsed.repository, id=identifier, node=node)
            if was_there and not is_deleted:
                remarks.append(f"the registry does not delete the grant {identifier} {keys.FINGERPRINT}{node}")
    _show_buried(parsed, pairs, REVOKED, remarks)


def _show_buried(parsed: Namespace, pairs: list[tuple[str, str]], reason: str, remarks: list[str]) -> None:
    if reason == REVOKED:
        remarks.append(f"{_KEPT}, and a registry can serve an old grant again until it ends")
        remarks.append("an approver whose rules accept the node needs its fingerprint in `deny`")
    if parsed.json:
        nodes = [{"id": each, "fingerprint": keys.FINGERPRINT + node} for each, node in pairs]
        _show_json({reason: nodes, "remarks": remarks})
        return
    show("".join(f"{identifier} {keys.FINGERPRINT}{node} {reason}\n" for identifier, node in pairs))
    show("".join(f"note: {remark}\n" for remark in remarks))


def _log(parsed: Namespace) -> None:
    with _acting(parsed, "pull", _signers(parsed)) as owner:
        decisions, others = owner.decisions(_wanted(parsed))
    if parsed.json:
        _show_json({"decisions": [listing.decision_members(each) for each in decisions], "others": others})
        return
    show("".join(map(listing.decision_line, decisions)) or "nothing was decided with this key\n")
    if others:
        show(f"{others} more are not of this owner, or are not grants\n")


def _found(parsed: Namespace) -> Found:
    with artifacts.opened(parsed.requests, access_of(parsed)) as requests:
        return find_requests(requests, parsed.repository, _wanted(parsed))


def _signers(parsed: Namespace) -> Signers:
    """Read the owner's key and the keys of publishers; by default the owner is the only publisher."""
    key = open_own_key("--key", parsed.key, parsed.password_file)
    publishers = keys.read_pinned("--publisher", getattr(parsed, "publisher", []))
    return key, publishers or {keys.fingerprint(key.public): key.public}


def _acting(parsed: Namespace, actions: str, signers: Signers) -> AbstractContextManager[Owner]:
    return acting(*signers, parsed.repository, access_of(parsed), actions)


def _wanted(parsed: Namespace) -> Wanted:
    """Return the IDs and fingerprints on the command line; their lengths distinguish them."""
    ids, nodes = [], []
    for word in parsed.words:
        digits = word.removeprefix(keys.FINGERPRINT).lower()
        if ID.fullmatch(digits):
            ids.append(digits)
        elif PRINT.fullmatch(digits):
            nodes.append(digits)
        else:
            raise UsageError(f"{quoted(word)} is neither the ID of a key (32 digits) nor a fingerprint (64 digits)")
    return Wanted(tuple(ids), tuple(nodes))


def _fingerprint(path: str) -> str:
    try:
        try:
            return keys.fingerprint(keys.read_public_key(path).key)
        except KeyFileError:
            return keys.fingerprint(keys.read_own_key(path).public)
    except KeyFileError as error:
        raise UsageError(f"{quoted(path)}: {error}") from error


def _write(path: str, data: bytes) -> None:
    try:
        write_new(path, data)
    except OSError as error:
        raise UsageError(f"{quoted(path)}: {error.strerror}") from error


def _show_problems(found: Found) -> None:
    if found.problems:
        show(f"{len(found.problems)} artifacts are not requests: {found.problems[0]}\n")
    if found.left:
        show(f"{found.left} more requests were not read: name an ID or a fingerprint\n")


def _show_json(members: dict[str, object]) -> None:
    show(json.dumps({"schemaVersion": 1, **members}) + "\n")
