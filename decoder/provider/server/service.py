"""What a keyprovider does with a request of any client, whichever way it came."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from decoder import limits
from decoder.errors import quoted
from decoder.provider.client import protocol
from decoder.provider.errors import ProviderError

if TYPE_CHECKING:
    from decoder.provider.audit import Provider

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


class Service:
    """Answers requests.

    Args:
        provider: does the work.
        names: what clients call it. Without any, all parameters are its own that are not those of another scheme.
    """

    def __init__(self, provider: Provider, names: Collection[str]) -> None:
        self._provider = provider
        self._names = names

    def answer(self, data: bytes, expected: protocol.Operation | None = None) -> bytes:
        """Do what a request asks for.

        Args:
            data: the request, JSON.
            expected: the operation that it must be, where the way it came says so.

        Returns:
            The reply, JSON.

        Raises:
            RequestError: it is malformed.
            ProviderError: the provider failed.
        """
        try:
            request = protocol.parse_request(data)
            parameters = {name: [item.decode() for item in request.parameters[name]] for name in self._own(request)}
        except UnicodeDecodeError:
            raise RequestError("the request: a parameter is not UTF-8") from None
        except ValueError as error:
            raise RequestError(f"the request: {error}") from None
        if expected and request.operation != expected:
            raise RequestError(f"the request is a {request.operation} where a {expected} belongs")
        if request.operation == "keywrap" and len(request.data) > limits.PRIVATE_OPTIONS_BYTES:
            raise RequestError(f"the request: its private options are longer than {limits.PRIVATE_OPTIONS_BYTES} bytes")
        values = [value for items in parameters.values() for value in items]
        if request.operation == "keyunwrap":
            return protocol.build_reply("keyunwrap", self._provider.unwrap(request.data, values))
        if not self._names and len(parameters) > 1:
            raise ProviderError(
                f"the request has parameters of several providers, {', '.join(map(quoted, sorted(parameters)[:8]))}: "
                "--provider-name tells which is this one's"
            )
        return protocol.build_reply("keywrap", self._provider.wrap(request.data, values))

    def _own(self, request: protocol.Request) -> list[str]:
        return [
            name
            for name in request.parameters
            if (name in self._names if self._names else name not in _OTHER_PARAMETERS)
        ]
