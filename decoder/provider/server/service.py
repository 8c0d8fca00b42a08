"""What a keyprovider does with a request, for every transport."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple

from decoder import limits
from decoder.errors import quoted
from decoder.provider.client import protocol
from decoder.provider.client.protocol import OPERATIONS
from decoder.provider.errors import ProviderError

if TYPE_CHECKING:
    from decoder.provider.audit import Operation, Provider

# What ocicrypt puts beside the parameters of keyproviders: keys and recipients of its other schemes, which it
# sends to every provider.
_OTHER_PARAMETERS = frozenset(
    (
        "privkeys",
        "privkeys-passwords",
        "pubkeys",
        "x509s",
        "gpg-privatekeys",
        "gpg-privatekeys-passwords",
        "gpg-recipients",
        "gpg-pubkeyringfile",
        "gpg-client",
        "gpg-client-version",
        "pkcs11-yamls",
        "pkcs11-pubkeys",
        "pkcs11-config",
    )
)


class RequestError(Exception):
    """A request is malformed; the text quotes nothing of it."""


class Asked(NamedTuple):
    """What a request asks for.

    Attributes:
        kind: `keywrap` or `keyunwrap`, which decides the form of the reply.
        operation: what the provider is to do.
        data: what to wrap or to unwrap.
        parameters: those that are the provider's.
    """

    kind: protocol.Operation
    operation: Operation
    data: bytes
    parameters: list[str]


class Service:
    """Answers requests.

    Args:
        provider: does the work.
        names: what clients call it. Without any, all parameters are its own that are not those of another scheme.
    """

    def __init__(self, provider: Provider, names: Collection[str]) -> None:
        self.provider = provider
        self._names = names

    def answer(self, data: bytes, seconds: float | None = None) -> bytes:
        """Perform a request.

        Args:
            data: the request, JSON.
            seconds: how long it may take; CLOUD_KMS_SECONDS by default.

        Returns:
            The reply, JSON.

        Raises:
            RequestError: it is malformed.
            ProviderError: the provider failed.
        """
        asked = self.parse(data)
        answer = self.provider.perform(asked.operation, asked.data, asked.parameters, seconds)
        return protocol.build_reply(asked.kind, answer)

    def parse(self, data: bytes, expected: protocol.Operation | None = None, is_kek: bool = False) -> Asked:
        """Parse a request.

        Args:
            data: the request, JSON.
            expected: the operation that it must be, where the way it came says so.
            is_kek: whether what is wrapped is a key-encryption key.

        Raises:
            RequestError: it is malformed.
            ProviderError: it does not tell which parameters are this provider's.
        """
        try:
            request = protocol.parse_request(data)
            parameters = {name: [item.decode() for item in request.parameters[name]] for name in self._own(request)}
        except UnicodeDecodeError as error:
            raise RequestError("the request: a parameter is not UTF-8") from error
        except ValueError as error:
            raise RequestError(f"the request: {error}") from error
        kind = request.operation
        if expected and kind != expected:
            raise RequestError(f"the request is a {kind} where a {expected} belongs")
        if kind == "keywrap" and len(request.data) > limits.PRIVATE_OPTIONS_BYTES:
            raise RequestError(f"the request: its private options are longer than {limits.PRIVATE_OPTIONS_BYTES} bytes")
        if kind == "keywrap" and not self._names and len(parameters) > 1:
            raise ProviderError(
                f"the request has parameters of several providers, {', '.join(map(quoted, sorted(parameters)[:8]))}: "
                "--provider-name tells which is this one's"
            )
        values = [value for items in parameters.values() for value in items]
        return Asked(kind, OPERATIONS[kind, is_kek], request.data, values)

    def _own(self, request: protocol.Request) -> list[str]:
        return [
            name
            for name in request.parameters
            if (name in self._names if self._names else name not in _OTHER_PARAMETERS)
        ]
