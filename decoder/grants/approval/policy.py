"""The approver's policy, a JSON file. docs/grants.md §Automatic approval describes its members."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decoder import limits
from decoder.errors import KeyFileError, UsageError, quoted
from decoder.formats import wire
from decoder.grants import artifacts, keys
from decoder.grants.approval.rules import Rule, read_authorities
from decoder.grants.owner import check_days
from decoder.grants.statements import PRINT
from decoder.keys.file import read_key_file
from decoder.record import Record

if TYPE_CHECKING:
    from decoder.grants.keys import Keys

_MEMBERS = {"key", "password-file", "publishers", "owners", "repositories", "rules", "deny"}
_MEMBERS |= {"per-hour", "state", "interval"}
_RULE_MEMBERS = {"repositories", "ca", "names", "days"}


class Policy(Record):
    """The content of the file.

    Attributes:
        key: the file of the owner's private key.
        password_file: the file with the password of that key, or "".
        publishers: the trusted publishers of sealed keys.
        owners: further owners, whose tombstones are respected.
        repositories: pairs of a repository of grants and the repository of its requests.
        rules: the rules that give access.
        denied: the fingerprints of nodes that get no access, regardless of the rules.
        per_hour: the maximum number of approvals in an hour.
        state: the file that holds the approver's state.
        interval: the time between two rounds, in seconds.
    """

    key: str
    password_file: str
    publishers: Keys
    owners: Keys
    repositories: tuple[tuple[str, str], ...]
    rules: tuple[Rule, ...]
    denied: frozenset[str]
    per_hour: int
    state: str
    interval: int


def read_policy(path: str) -> Policy:
    """Read the policy, and the keys and certificates that it names.

    Raises:
        UsageError: a file cannot be read, or is malformed.
    """
    try:
        value = wire.parse_object(read_key_file(path))
        return _policy(value)
    except (KeyFileError, ValueError) as error:
        raise UsageError(f"--policy {quoted(path)}: {error}") from error


def _policy(value: dict[str, object]) -> Policy:
    _check_names(value, _MEMBERS, "it")
    repositories = [_repository(each) for each in _list(value, "repositories")]
    rules = tuple(_rule(wire.object_value(each)) for each in _list(value, "rules"))
    denied = {text.removeprefix(keys.FINGERPRINT).lower() for text in _texts(value, "deny")}
    if wrong := next((text for text in denied if not PRINT.fullmatch(text)), ""):
        raise ValueError(f"deny: {quoted(wrong)} is not a fingerprint")
    publishers = keys.read_pinned("publishers", _texts(value, "publishers"))
    key, state = (_text(value, name) for name in ("key", "state"))
    if not (key and state and publishers and repositories and rules):
        raise ValueError("it needs key, publishers, repositories, rules and state")
    return Policy(
        key,
        _text(value, "password-file"),
        publishers,
        keys.read_pinned("owners", _texts(value, "owners")),
        tuple(repositories),
        rules,
        frozenset(denied),
        _number(value, "per-hour", limits.GRANTS_PER_HOUR, limits.GRANTS_LISTED),
        state,
        _number(value, "interval", limits.GRANTS_INTERVAL_SECONDS, limits.GRANTS_LONGEST_INTERVAL_SECONDS),
    )


def _repository(value: object) -> tuple[str, str]:
    """Parse a repository: its name, or an object that also names the repository of the requests."""
    members: dict[str, object] = {"name": value} if isinstance(value, str) else wire.object_value(value)
    _check_names(members, {"name", "requests"}, "repositories")
    name = artifacts.canonical(_text(members, "name"))
    requests = _text(members, "requests")
    return name, artifacts.canonical(requests) if requests else artifacts.requests_of(name)


def _rule(value: dict[str, object]) -> Rule:
    _check_names(value, _RULE_MEMBERS, "a rule")
    repositories, names = (tuple(_texts(value, name)) for name in ("repositories", "names"))
    if not repositories or not names or not _text(value, "ca"):
        raise ValueError("a rule needs repositories, ca and names")
    days = check_days(_number(value, "days", limits.GRANTS_DAYS, limits.GRANTS_MOST_DAYS))
    return Rule(repositories, read_authorities("ca", _text(value, "ca")), names, days)


def _check_names(value: dict[str, object], known: set[str], what: str) -> None:
    if unknown := sorted(value.keys() - known):
        raise ValueError(f"{what} has no member {quoted(unknown[0])}; there are {', '.join(sorted(known))}")


def _text(value: dict[str, object], name: str) -> str:
    return wire.named(name, wire.text_value, value.get(name))


def _list(value: dict[str, object], name: str) -> list[object]:
    return wire.named(name, wire.list_value, value.get(name))


def _texts(value: dict[str, object], name: str) -> list[str]:
    return [wire.named(name, wire.text_value, each) for each in _list(value, name)]


def _number(value: dict[str, object], name: str, default: int, most: int) -> int:
    number = value.get(name, default)
    if type(number) is not int or not 0 < number <= most:
        raise ValueError(f"{name} is not a number from 1 to {most}")
    return number
