"""The keyprovider service over gRPC, with the standard health service; messages by hand, no generated code."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn, cast

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what went wrong is said here, in one voice
import grpc
import grpc.aio

from decoder import failure, limits
from decoder.formats import protobuf
from decoder.provider.client import protocol
from decoder.provider.errors import ProviderError
from decoder.provider.server.listening import Security, is_open_to_others, listening
from decoder.provider.server.service import RequestError

if TYPE_CHECKING:
    from decoder.provider.server.service import Service

SERVICE = "keyprovider.KeyProviderService"
_HEALTH = "grpc.health.v1.Health"
# grpc.health.v1.HealthCheckResponse{ServingStatus status=1}
_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = b"\x08\x01", b"\x08\x02", b"\x08\x03"
_ENVELOPE_BYTES = 16  # of the message around a request
_REPLY_FACTOR = 4  # what integers take of JSON, for each byte

_Context = grpc.aio.ServicerContext


def serve(service: Service, address: str, security: Security, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; calls that run then may end within PROVIDER_SERVER_GRACE_SECONDS.

    Args:
        service: answers the requests.
        address: as `check` accepted it; port 0 lets the system choose one.
        security: as `check` accepted it.
        say: takes a line once the server listens, and whatever the operator should know.

    Raises:
        ListenError: it cannot listen there.
    """
    asyncio.run(_serve(service, address, security, say))


async def _serve(service: Service, address: str, security: Security, say: Callable[[str], None]) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    threads = ThreadPoolExecutor(limits.PROVIDER_SERVER_THREADS, "keyprovider")
    server = grpc.aio.server(
        options=(
            ("grpc.max_receive_message_length", limits.PROVIDER_MESSAGE_BYTES + _ENVELOPE_BYTES),
            ("grpc.max_send_message_length", limits.PROVIDER_MESSAGE_BYTES * _REPLY_FACTOR + _ENVELOPE_BYTES),
            ("grpc.so_reuseport", 0),  # or a second server would share the port, unnoticed
        ),
        maximum_concurrent_rpcs=limits.PROVIDER_SERVER_CALLS,
    )
    server.add_generic_rpc_handlers((_Calls(service, threads, say).handler(), _Health(stopping).handler()))
    with listening(server, address, security) as where:
        await server.start()
        if is_open_to_others(address, security):
            say(f"warning: whoever can reach {where} can have keys unwrapped; --client-ca asks for a certificate")
        say(f"listening on {where}")
        await stopping.wait()
        await server.stop(limits.PROVIDER_SERVER_GRACE_SECONDS)
    threads.shutdown(wait=False, cancel_futures=True)
    say("stopped")


class _Calls:
    """WrapKey and UnWrapKey."""

    def __init__(self, service: Service, threads: ThreadPoolExecutor, say: Callable[[str], None]) -> None:
        self._service = service
        self._threads = threads
        self._say = say

    def handler(self) -> grpc.GenericRpcHandler:
        async def wrap(message: bytes, context: _Context[bytes, bytes]) -> bytes:
            return await self._call("keywrap", message, context)

        async def unwrap(message: bytes, context: _Context[bytes, bytes]) -> bytes:
            return await self._call("keyunwrap", message, context)

        return _generic_handler(
            SERVICE,
            {
                "WrapKey": grpc.unary_unary_rpc_method_handler(cast("Any", wrap)),
                "UnWrapKey": grpc.unary_unary_rpc_method_handler(cast("Any", unwrap)),
            },
        )

    async def _call(self, operation: protocol.Operation, message: bytes, context: _Context[bytes, bytes]) -> bytes:
        code = grpc.StatusCode.INTERNAL
        try:
            request = _parse_message(message)
            reply = asyncio.get_running_loop().run_in_executor(self._threads, self._service.answer, request, operation)
            return protocol.build_message(await asyncio.wait_for(reply, limits.PROVIDER_SECONDS))
        except RequestError as error:
            code, text = grpc.StatusCode.INVALID_ARGUMENT, str(error)
            self._say(f"malformed request from {context.peer()}: {text}")
        except ProviderError as error:
            text = str(error)
        except TimeoutError:
            text = f"the provider did not answer within {limits.PROVIDER_SECONDS:g} seconds"
        except Exception as error:  # noqa: BLE001 - its text may hold a secret: neither the client nor the log gets it
            text = "internal error"
            self._say(failure.internal_error(error))
        return await _abort(context, code, text)


class _Health:
    """Check and Watch of the standard health service, for the server ("") and its one service."""

    def __init__(self, stopping: asyncio.Event) -> None:
        self._stopping = stopping

    def handler(self) -> grpc.GenericRpcHandler:
        return _generic_handler(
            _HEALTH,
            {
                "Check": grpc.unary_unary_rpc_method_handler(cast("Any", self._check)),
                "Watch": grpc.unary_stream_rpc_method_handler(cast("Any", self._watch)),
            },
        )

    async def _check(self, message: bytes, context: _Context[bytes, bytes]) -> bytes:
        if not await self._knows(message, context):
            await _abort(context, grpc.StatusCode.NOT_FOUND, "there is no such service")
        return _NOT_SERVING if self._stopping.is_set() else _SERVING

    async def _watch(self, message: bytes, context: _Context[bytes, bytes]) -> AsyncIterator[bytes]:
        if not await self._knows(message, context):
            yield _SERVICE_UNKNOWN
            await self._stopping.wait()
            return
        yield _SERVING
        await self._stopping.wait()
        yield _NOT_SERVING

    async def _knows(self, message: bytes, context: _Context[bytes, bytes]) -> bool:
        try:
            return protobuf.parse_bytes(message, 1) in (b"", SERVICE.encode())
        except ValueError as error:
            return await _abort(context, grpc.StatusCode.INVALID_ARGUMENT, f"the message: {error}")


def _generic_handler(name: str, methods: dict[str, Any]) -> grpc.GenericRpcHandler:
    return grpc.method_handlers_generic_handler(name, methods)


def _parse_message(message: bytes) -> bytes:
    try:
        return protocol.parse_message(message)
    except ValueError as error:
        raise RequestError(f"the message: {error}") from None


async def _abort(context: _Context[bytes, bytes], code: grpc.StatusCode, text: str) -> NoReturn:
    bounded = text.encode(errors="replace")[: limits.PROVIDER_ERROR_BYTES].decode(errors="ignore")
    await context.abort(code, bounded)
    raise AssertionError  # abort always raises
