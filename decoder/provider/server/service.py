"""Requests of the keyprovider protocol: parsed and performed, for every transport."""

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

# Parameters of ocicrypt's other schemes, keys and recipients, which it sends to every keyprovider as well.
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
    """A request is malformed; the text does not quote it."""


class Asked(NamedTuple):
    """A parsed request.

    Attributes:
        kind: `keywrap` or `keyunwrap`, which determines the form of the reply.
        operation: the provider's operation.
        data: the options to wrap, or the annotation to unwrap.
        parameters: the parameters for this provider.
    """

    kind: protocol.Operation
    operation: Operation
    data: bytes
    parameters: list[str]


class Service:
    """Answers requests.

    Args:
        provider: the provider that performs them.
        names: the names of the provider in clients' configurations. Without names, it takes all parameters except those
            of other schemes.
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
            expected: the operation that it must have, if the called method says so.
            is_kek: whether it is about a key-encryption key.

        Raises:
            RequestError: it is malformed.
            ProviderError: it has parameters of several providers, and it is unknown which are this provider's.
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
            raise RequestError(f"the request is a {kind} instead of a {expected}")
        if kind == "keywrap" and len(request.data) > limits.PRIVATE_OPTIONS_BYTES:
            raise RequestError(f"the request: its private options are longer than {limits.PRIVATE_OPTIONS_BYTES} bytes")
        if kind == "keywrap" and not self._names and len(parameters) > 1:
            names = ", ".join(map(quoted, sorted(parameters)[: limits.LISTED_NAMES]))
            raise ProviderError(
                f"the request has parameters of several providers, {names}: name this provider with --provider-name"
            )
        values = [value for items in parameters.values() for value in items]
        return Asked(kind, OPERATIONS[kind, is_kek], request.data, values)

    def _own(self, request: protocol.Request) -> list[str]:
        return [
            name
            for name in request.parameters
            if (name in self._names if self._names else name not in _OTHER_PARAMETERS)
        ]
