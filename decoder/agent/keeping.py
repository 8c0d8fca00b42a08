"""How a worker has the keeper ask a keyprovider, and where that goes wrong, asks it itself."""

from __future__ import annotations

import hashlib
import os
import socket
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, cast

import msgpack  # type: ignore[import-untyped]

from decoder import limits
from decoder.agent import messages
from decoder.keywrap import keyprovider
from decoder.provider.client.config import Configured, GrpcProvider, GrpcTls, NativeProvider
from decoder.provider.errors import ProviderError

if TYPE_CHECKING:
    from decoder.agent.notices import Notices
    from decoder.provider.client.protocol import Operation

_OF_THE_LAYER = b"STREAM_PROCESSOR_MEDIATYPE"  # the only variable that differs from layer to layer


def use(notices: Notices) -> None:
    """Have keyproviders that take long to make asked by a keeper."""
    keyprovider.ask_keeper = partial(_ask_keeper, notices)


def _ask_keeper(
    notices: Notices, provider: Configured, operation: Operation, data: bytes, parameters: list[bytes]
) -> bytes | None:
    """Return what the provider answers, or None if it must be asked from here.

    Raises:
        ProviderError: its time is over.
    """
    if not isinstance(provider.transport, NativeProvider | GrpcProvider):
        return None
    until = monotonic() + provider.seconds
    try:
        return _converse(notices, pack(provider), [operation, data, parameters], provider.seconds)
    except (messages.MessageError, OSError, ValueError):
        if monotonic() >= until:
            raise ProviderError(f"no answer within {provider.seconds:g} seconds") from None
        return None


def _converse(notices: Notices, provider: list[object], question: list[object], seconds: float) -> bytes:
    environment = {name: value for name, value in os.environb.items() if name != _OF_THE_LAYER}
    surroundings = [os.fsencode(os.getcwd()), environment]
    identity = hashlib.sha256(cast("bytes", msgpack.packb([surroundings[0], sorted(environment.items())]))).digest()
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            notices.want_keeper(identity, theirs)
        ours.settimeout(seconds)
        messages.send(ours, surroundings, provider, question)
        _, opened = messages.receive(ours, limits.AGENT_KEEPER_BYTES, seconds)
    if not isinstance(opened, bytes):
        raise messages.MessageError("not an answer")
    return opened


def pack(provider: Configured) -> list[object]:
    """Write a provider's entry so that it can be sent; `unpack` reads it."""
    return [provider.name, isinstance(provider.transport, NativeProvider), list(provider.transport), provider.seconds]


def unpack(value: list[object]) -> Configured:
    """Read what `pack` wrote; only what a worker sent comes here."""
    name, is_native, fields, seconds = cast("tuple[str, bool, list[object], float]", tuple(value))
    if is_native:
        transport: NativeProvider | GrpcProvider = NativeProvider(*fields)  # type: ignore[arg-type]
    else:
        address, tls = fields
        transport = GrpcProvider(str(address), GrpcTls(*tls) if isinstance(tls, list) else None)
    return Configured(name, transport, seconds)
