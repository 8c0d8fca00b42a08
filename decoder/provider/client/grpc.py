"""A keyprovider that is a gRPC server: package `keyprovider`, service `KeyProviderService`, WrapKey and UnWrapKey.

Its two messages hold one field each, so no generated code is needed. grpcio is imported when a server is asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from decoder import limits
from decoder.extras import missing
from decoder.formats import protobuf
from decoder.provider.client.held import EACH_ONCE, Held
from decoder.provider.client.quietgrpc import import_grpc
from decoder.provider.deadline import within
from decoder.provider.errors import ProviderError, excerpt

if TYPE_CHECKING:
    import grpc

    from decoder.provider.client.config import GrpcProvider
    from decoder.provider.client.protocol import Operation
    from decoder.provider.client.tls import Trust

_METHODS: dict[Operation, str] = {
    "keywrap": "/keyprovider.KeyProviderService/WrapKey",
    "keyunwrap": "/keyprovider.KeyProviderService/UnWrapKey",
}
_FIELD = 1
_OVERHEAD_BYTES = 16  # of a message over what its field holds


def ask(provider: GrpcProvider, operation: Operation, request: bytes, seconds: float, held: Held = EACH_ONCE) -> bytes:
    """Ask a server; after UNAVAILABLE at most PROVIDER_RETRIES times more.

    Args:
        provider: where the server is, and how to speak TLS with it. A proxy is never used.
        operation: decides the method.
        request: at most PROVIDER_MESSAGE_BYTES.
        seconds: how long all of it may take.
        held: connections to reuse; by default one is made for this call.

    Raises:
        ProviderError: grpcio is not installed, a file cannot be used, the server cannot be reached or trusted, does
            not answer in time, or answers with an error, whose text is quoted, or with too much.
    """
    return within(seconds, lambda: _ask(provider, operation, protobuf.build_bytes(_FIELD, request), seconds, held))


def _ask(provider: GrpcProvider, operation: Operation, message: bytes, seconds: float, held: Held) -> bytes:
    grpc = _load()
    deadline = time.monotonic() + seconds
    trust: list[Trust] = []

    def connect() -> Any:
        if provider.tls and not trust:
            from decoder.provider.client.tls import Trust

            trust.append(Trust(provider.address, provider.tls, deadline))
        return _connect(provider.address, trust[0].channel if trust else None)

    for retries_left in reversed(range(limits.PROVIDER_RETRIES + 1)):
        try:
            with held.use(provider, connect, lambda channel: channel.close()) as channel:
                method: Callable[..., bytes] = channel.unary_unary(_METHODS[operation])
                reply = method(message, timeout=max(0.0, deadline - time.monotonic()))
            return protobuf.parse_bytes(reply, _FIELD)
        except ValueError as error:
            raise ProviderError(f"its reply is not a message of the keyprovider service: {error}") from None
        except grpc.RpcError as error:
            reachable = error.code() != grpc.StatusCode.UNAVAILABLE
            if not reachable and trust:
                trust[0].check()
            if reachable or not retries_left:
                raise ProviderError(_cause(grpc, error, seconds)) from None
        time.sleep(limits.PROVIDER_RETRY_SECONDS * 2 ** (limits.PROVIDER_RETRIES - retries_left))
    raise AssertionError


def _load() -> Any:
    try:
        return import_grpc()
    except ImportError as error:
        raise ProviderError(missing("grpc", error)) from error


def _connect(address: str, tls: tuple[grpc.ChannelCredentials, list[tuple[str, str]]] | None) -> grpc.Channel:
    import grpc

    options: list[tuple[str, str | int]] = [
        ("grpc.enable_http_proxy", 0),
        ("grpc.enable_retries", 0),  # they would not know our limit
        ("grpc.use_local_subchannel_pool", 1),  # a retry connects anew
        ("grpc.max_receive_message_length", limits.PROVIDER_MESSAGE_BYTES + _OVERHEAD_BYTES),
    ]
    if tls:
        return grpc.secure_channel(address, tls[0], [*options, *tls[1]])
    return grpc.insecure_channel(address, options)


def _cause(grpc: Any, error: Any, seconds: float) -> str:
    code, text = error.code(), excerpt((error.details() or "")[: limits.PROVIDER_ERROR_BYTES])
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no answer within {seconds:g} seconds"
    if code == grpc.StatusCode.UNAVAILABLE:
        return f"it cannot be reached: {text}"
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return f"a message is too large, or it has too much to do: {text}"
    return f"it answered {code.name}: {text}"
