"""What a worker reuses of earlier layers: the zygote's parsed keys, and a keeper that queries keyproviders."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, cast

from decoder import limits
from decoder.agent import messages
from decoder.keys.kept import Kept
from decoder.keys.subject import Subject
from decoder.provider import envelope
from decoder.provider.client.config import Configured, GrpcProvider, GrpcTls, NativeProvider
from decoder.provider.errors import ProviderError

if TYPE_CHECKING:
    from collections.abc import Callable

    from decoder.agent.notices import Notices
    from decoder.agent.processes.parsedkeys import ParsedKeys
    from decoder.keys.kept import Parsed, Provider

IS_KEPT = "is-kept"  # a question of ours, beside the operations of providers: is the key-encryption key in memory?
_OF_THE_LAYER = b"STREAM_PROCESSOR_MEDIATYPE"  # the only variable that differs from layer to layer


class KeptByAgent(Kept):
    """What the agent keeps for a worker.

    Args:
        client: the process number of the worker's client.
        parsed_keys: the keys that the worker inherited from the zygote.
        notices: the channel to the zygote.
    """

    def __init__(self, client: int, parsed_keys: ParsedKeys, notices: Notices) -> None:
        self.client = client
        self._parsed_keys, self._notices = parsed_keys, notices

    def parsed(self, file: str, sources: list[bytes], parse: Callable[[], Parsed]) -> Parsed:
        """Return a parsed key. If it is new, send it to the zygote for later workers."""
        return self._parsed_keys.parsed(self._notices, file, sources, parse) if file else parse()

    def ask(self, provider: Provider, operation: str, data: bytes, parameters: list[bytes]) -> bytes | None:
        """Ask a provider through a keeper, which keeps clients and connections that are slow to create.

        Returns:
            The answer; None if this process has to ask the provider itself.

        Raises:
            ProviderError: the provider did not answer within its time limit, or failed when half of it was over.
        """
        return ask_keeper(self._notices, provider, operation, data, parameters)

    def has_opened(self, provider: Provider, data: bytes, parameters: list[bytes]) -> bool:
        """Ask a keeper whether it has the opened key-encryption key in memory."""
        if not isinstance(provider.transport, NativeProvider | GrpcProvider) or not envelope.is_envelope(data):
            return False
        question: list[object] = [IS_KEPT, data, parameters]
        with suppress(messages.MessageError, OSError, ValueError):
            return bool(_converse(self._notices, pack(provider), question, limits.AGENT_KEEPER_REQUEST_SECONDS))
        return False


def ask_keeper(
    notices: Notices, provider: Provider, operation: str, data: bytes, parameters: list[bytes]
) -> bytes | None:
    """Ask a provider through a keeper; see `KeptByAgent.ask`.

    If the provider fails there, the caller asks it again from its own process, because something stale in the keeper
    may be the cause; but not if half of the provider's time is over.
    """
    if not isinstance(provider.transport, NativeProvider | GrpcProvider):
        return None
    if isinstance(provider.transport, GrpcProvider) and provider.transport.tls and provider.transport.tls.cert_file:
        notices.certificate(provider.transport.tls.cert_file)
    begin = monotonic()
    try:
        answer = _converse(notices, pack(provider), [operation, data, parameters], provider.seconds)
    except (messages.MessageError, OSError, ValueError) as error:
        if monotonic() >= begin + provider.seconds:
            raise ProviderError(f"no answer within {provider.seconds:g} seconds") from error
        return None
    if isinstance(answer, bytes):
        return answer
    if monotonic() >= begin + provider.seconds / 2:
        raise ProviderError(str(answer))
    return None


def _converse(notices: Notices, provider: list[object], question: list[object], seconds: float) -> object:
    """Return a provider's answer as bytes, or the reason of its failure as text."""
    environment = {name: value for name, value in os.environb.items() if name != _OF_THE_LAYER}
    surroundings = [os.fsencode(os.getcwd()), environment]
    identity = messages.identity([surroundings[0], sorted(environment.items())])
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            notices.want_keeper(identity, theirs)
        ours.settimeout(seconds)
        messages.send(ours, surroundings, provider, question)
        return messages.receive(ours, limits.AGENT_KEEPER_BYTES, seconds)[1]


def pack(provider: Provider) -> list[object]:
    """Return the entry of a native or gRPC provider as values that msgpack can hold; `unpack` reads them."""
    transport = cast("NativeProvider | GrpcProvider", provider.transport)
    subject = list(provider.subject)
    return [provider.name, isinstance(transport, NativeProvider), list(transport), provider.seconds, subject]


def unpack(value: list[object]) -> Configured:
    """Return the entry that `pack` was given. The values come from our own workers, so they are not checked."""
    name, is_native, fields, seconds, subject = cast("tuple[str, bool, list[object], float, list[str]]", tuple(value))
    if is_native:
        transport: NativeProvider | GrpcProvider = NativeProvider(*fields)  # type: ignore[arg-type]
    else:
        address, tls = fields
        transport = GrpcProvider(str(address), GrpcTls(*tls) if isinstance(tls, list) else None)
    return Configured(name, transport, seconds, (), Subject(*subject))
