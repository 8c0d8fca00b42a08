"""Access control: the client of a connection, and what the client policy allows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from decoder.provider.errors import ClientRefusedError, RateError
from decoder.provider.server.clients import clientpolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from decoder.provider.audit import Operation
    from decoder.provider.server.clients.clientpolicy import ClientPolicy, Rule
    from decoder.provider.server.clients.peer import Peer
    from decoder.provider.server.clients.rates import Rates
    from decoder.provider.server.connections.front import Front
    from decoder.provider.server.reloaded import Reloaded

_UNKNOWN = "the connection is not one that this server has accepted"
_DISTRUSTED = "the authority of the client's certificate is not trusted any more"
_EXPIRED = "the client's certificate has expired"


class StaleConnectionError(ClientRefusedError):
    """The client's certificate is no longer accepted; the client may connect again with another one."""


class Caller(NamedTuple):
    """The client of a call, and the rules that name it; None if there is no policy."""

    peer: Peer
    rules: Sequence[Rule] | None


class Gate:
    """Decides about each call by the current certificates and policy, even if the connection is older.

    Args:
        front: the connections.
        policy: the client policy, or None to allow everything to every client.
        rates: the request rates of clients.
    """

    def __init__(self, front: Front, policy: Reloaded[ClientPolicy] | None, rates: Rates) -> None:
        self._front = front
        self._policy = policy
        self._rates = rates

    def identify(self, address: str) -> Peer | None:
        """Return the client of a call, by the address that gRPC sees; None if there is no such connection."""
        connection = self._front.find(address)
        return connection.peer if connection else None

    def enter(self, address: str) -> Caller:
        """Admit the client of a call.

        Args:
            address: the address that gRPC sees.

        Raises:
            StaleConnectionError: the client's certificate has expired, or is no longer trusted.
            ClientRefusedError: no rule names the client.
        """
        connection = self._front.find(address)
        if connection is None:
            raise ClientRefusedError(_UNKNOWN)
        for is_good, text in ((self._front.is_trusted(connection), _DISTRUSTED), (not connection.expires(), _EXPIRED)):
            if not is_good:
                connection.go_away()
                raise StaleConnectionError(text)
        if self._policy is None:
            return Caller(connection.peer, None)
        if connection.rules is None or connection.rules[0] != self._policy.generation:
            connection.rules = self._policy.generation, self._policy.value.about(connection.peer)
        return Caller(connection.peer, connection.rules[1])

    def check(self, caller: Caller, operation: Operation, keys: Sequence[str]) -> None:
        """Check that the policy allows an operation with these keys; count it if the rule has a rate.

        Raises:
            ClientRefusedError: no rule allows it.
            RateError: the client has sent too many requests.
        """
        if caller.rules is None:
            return
        rule = clientpolicy.choose(caller.rules, operation, keys)
        if rule.rate and not self._rates.allows(f"{rule.number} {caller.peer.identity}", rule.rate):
            raise RateError("the client has asked more often than the client policy allows")
