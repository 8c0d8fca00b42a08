"""`--client-policy FILE`: which clients may wrap or unwrap with which keys, and how often (docs/server.md)."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, NamedTuple

from decoder import limits
from decoder.errors import DecoderError, quoted
from decoder.node.unixsocket import ListenError
from decoder.provider.errors import ClientRefusedError
from decoder.provider.patterns import matches
from decoder.provider.server.tls import read_certificates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.x509 import Certificate

    from decoder.provider.audit import Operation
    from decoder.provider.server.clients.peer import Peer

_CERTIFIED = {"uri": "/", "dns": ".", "cn": ""}  # kinds of names in certificates; `*` does not match these separators
_LOCAL = ("uid", "gid")  # kinds of names of users at a Unix socket
_MEMBERS = ("client", "ca", "wrap", "unwrap", "rate", "burst")
_RATE = re.compile(r"([1-9][0-9]{0,6})/([smh])")
_SECONDS = {"s": 1, "m": 60, "h": 3600}


class PolicyError(DecoderError):
    """The file of --client-policy cannot be used."""

    status = 7


class Rate(NamedTuple):
    """The rate of each client under a rule: requests per second on average, and the burst."""

    per_second: float
    burst: int


class Rule(NamedTuple):
    """A rule: the keys that some clients may use.

    Attributes:
        number: its position in the file, from 1.
        clients: pairs of a kind and a pattern; a client matches if one of its names does.
        authorities: the authorities that a client's certificate must be from; none for users of a Unix socket.
        wrap: patterns of the keys that they may wrap with.
        unwrap: patterns of the keys that they may unwrap with.
        rate: the allowed rate, or None for no limit.
    """

    number: int
    clients: tuple[tuple[str, str], ...]
    authorities: tuple[Certificate, ...]
    wrap: tuple[str, ...]
    unwrap: tuple[str, ...]
    rate: Rate | None

    def is_about(self, peer: Peer) -> bool:
        """Check whether the rule names this client."""
        if not any(_fits(name, kind, pattern) for name in peer.names for kind, pattern in self.clients):
            return False
        return not self.authorities or peer.is_issued_by(self.authorities)

    def allows(self, operation: Operation, keys: Sequence[str]) -> bool:
        """Check whether the rule allows an operation with all of these keys."""
        patterns = self.wrap if operation in ("wrap", "wrap-kek") else self.unwrap
        return bool(keys) and all(any(matches(key, pattern) for pattern in patterns) for key in keys)


class ClientPolicy(NamedTuple):
    """The rules of a file. Requests that none of them allows are refused."""

    rules: tuple[Rule, ...]

    def about(self, peer: Peer) -> tuple[Rule, ...]:
        """Return the rules that name a client.

        Raises:
            ClientRefusedError: no rule names it.
        """
        if found := tuple(rule for rule in self.rules if rule.is_about(peer)):
            return found
        raise ClientRefusedError(f"no rule of the client policy names {quoted(peer.identity or 'this client')}")


def choose(rules: Sequence[Rule], operation: Operation, keys: Sequence[str]) -> Rule:
    """Return the first of a client's rules that allows an operation with these keys.

    Raises:
        ClientRefusedError: no rule allows it.
    """
    for rule in rules:
        if rule.allows(operation, keys):
            return rule
    verb = "wrap" if operation in ("wrap", "wrap-kek") else "unwrap"
    raise ClientRefusedError(f"the client policy does not let this client {verb} with this key")


def load(path: str) -> tuple[ClientPolicy, Sequence[str]]:
    """Read a policy.

    Returns:
        The policy, and the files that it depends on: the policy's own, and those of authorities.

    Raises:
        PolicyError: the policy cannot be used; the text names the rule and the problem.
    """
    shown = f"--client-policy {path}"
    try:
        with open(path, "rb") as file:
            data = file.read(limits.CLIENT_POLICY_BYTES + 1)
        if len(data) > limits.CLIENT_POLICY_BYTES:
            raise PolicyError(f"{shown}: it is longer than {limits.CLIENT_POLICY_BYTES} bytes")
        members = tomllib.loads(data.decode())
    except OSError as error:
        raise PolicyError(f"{shown}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # of TOML, or of UTF-8
        raise PolicyError(f"{shown}: it is not TOML: {error}") from error
    rules = members.get("rule")
    if list(members) != ["rule"] or not isinstance(rules, list) or not all(isinstance(each, dict) for each in rules):
        raise PolicyError(f"{shown}: it holds something other than [[rule]] tables")
    if len(rules) > limits.CLIENT_RULES:
        raise PolicyError(f"{shown}: it has more than {limits.CLIENT_RULES} rules")
    files: dict[str, tuple[Certificate, ...]] = {}
    read = tuple(_rule(f"{shown}: rule {number}", number, each, files) for number, each in enumerate(rules, 1))
    return ClientPolicy(read), [path, *files]


def _rule(where: str, number: int, members: dict[str, object], files: dict[str, tuple[Certificate, ...]]) -> Rule:
    if unknown := sorted(set(members) - set(_MEMBERS)):
        raise PolicyError(f"{where} has {quoted(unknown[0])}; a rule has {', '.join(_MEMBERS)}")
    clients = tuple(_client(where, text) for text in _texts(where, members, "client"))
    kinds = {kind in _LOCAL for kind, _ in clients}
    if not clients or len(kinds) > 1:
        raise PolicyError(f"{where}: client names certificates (uri:, dns:, cn:) or users (uid:, gid:), not both")
    ca = members.get("ca", "")
    if not isinstance(ca, str) or bool(ca) == kinds.pop():
        raise PolicyError(
            f"{where}: ca is the file of the authority that clients' certificates are from; users have none"
        )
    if ca and ca not in files:
        try:
            files[ca] = read_certificates(ca)
        except ListenError as error:
            raise PolicyError(f"{where}: ca: {error}") from error
    wrap, unwrap = (_texts(where, members, name) for name in ("wrap", "unwrap"))
    if not wrap and not unwrap:
        raise PolicyError(f"{where} allows nothing: wrap and unwrap list patterns of keys")
    return Rule(number, clients, files[ca] if ca else (), wrap, unwrap, _rate(where, members))


def _texts(where: str, members: dict[str, object], name: str) -> tuple[str, ...]:
    value = members.get(name, [])
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str) and item for item in items):
        raise PolicyError(f"{where}: {name} is a string or a list of strings")
    return tuple(map(str, items))


def _client(where: str, text: str) -> tuple[str, str]:
    kind, colon, pattern = text.partition(":")
    if not colon or not pattern or kind not in (*_CERTIFIED, *_LOCAL):
        raise PolicyError(f"{where}: client {quoted(text)} begins with none of uri:, dns:, cn:, uid: and gid:")
    if kind in _LOCAL and not (pattern.isascii() and pattern.isdecimal()):
        raise PolicyError(f"{where}: client {quoted(text)} is not the number of a user or group")
    return kind, pattern.lower() if kind == "dns" else pattern


def _rate(where: str, members: dict[str, object]) -> Rate | None:
    rate, burst = members.get("rate"), members.get("burst")
    if rate is None and burst is None:
        return None
    match = _RATE.fullmatch(rate) if isinstance(rate, str) else None
    if not match:
        raise PolicyError(f'{where}: rate is NUMBER/s, NUMBER/m or NUMBER/h, such as "600/m"')
    count = int(match[1])
    if burst is None:
        burst = count
    if type(burst) is not int or not 1 <= burst <= limits.CLIENT_BURST:
        raise PolicyError(f"{where}: burst is a number from 1 to {limits.CLIENT_BURST}")
    return Rate(count / _SECONDS[match[2]], burst)


def _fits(name: str, kind: str, pattern: str) -> bool:
    own, _, value = name.partition(":")
    if own != kind:
        return False
    return value == pattern if kind in _LOCAL else matches(value, pattern, _CERTIFIED[kind])
