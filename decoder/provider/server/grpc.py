"""The keyprovider service over gRPC, with the standard health service. No generated code is used."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Thread
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, cast

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # errors are reported by this module only
import grpc
import grpc.aio

from decoder import limits
from decoder.formats import protobuf
from decoder.provider.client.grpc import SERVICE
from decoder.provider.server.calls import Calls, Context, abort
from decoder.provider.server.clients.refusals import Refusals
from decoder.provider.server.connections.front import Front
from decoder.provider.server.connections.listening import is_open_to_others
from decoder.provider.server.connections.shortage import Shortage
from decoder.provider.server.files import Files
from decoder.provider.server.gate import Gate
from decoder.provider.server.watch import Watch

if TYPE_CHECKING:
    import socket

    from decoder.provider.server.clients.rates import Rates
    from decoder.provider.server.processes import Child
    from decoder.provider.server.service import Service
    from decoder.provider.server.tls import Security
    from decoder.provider.server.watch import Counted

_HEALTH = "grpc.health.v1.Health"
# grpc.health.v1.HealthCheckResponse{ServingStatus status=1}
_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = b"\x08\x01", b"\x08\x02", b"\x08\x03"
_ENVELOPE_BYTES = 16  # of the message around a request
_REPLY_FACTOR = 4  # JSON bytes for each integer


# Bounds of messages, connections and calls. The front also bounds connections; this is a second limit behind it.
_OPTIONS = (
    ("grpc.max_receive_message_length", limits.PROVIDER_MESSAGE_BYTES + _ENVELOPE_BYTES),
    ("grpc.max_send_message_length", limits.PROVIDER_MESSAGE_BYTES * _REPLY_FACTOR + _ENVELOPE_BYTES),
    ("grpc.max_allowed_incoming_connections", 2 * limits.PROVIDER_SERVER_CONNECTIONS),
    ("grpc.max_concurrent_streams", limits.PROVIDER_SERVER_STREAMS),
    # Requests that gRPC has read but not begun. Beyond these bounds it cancels calls at random, before this program can
    # answer that it is busy.
    ("grpc.server.max_pending_requests", 2 * limits.PROVIDER_SERVER_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", 4 * limits.PROVIDER_SERVER_CALLS),
    ("grpc.server_handshake_timeout_ms", int(limits.PROVIDER_SERVER_HANDSHAKE_SECONDS * 1000)),
    ("grpc.max_connection_idle_ms", int(limits.PROVIDER_SERVER_IDLE_SECONDS * 1000)),
    ("grpc.max_connection_age_ms", int(limits.PROVIDER_SERVER_AGE_SECONDS * 1000)),
    ("grpc.max_connection_age_grace_ms", int(limits.PROVIDER_SECONDS * 1000)),
)


class Door(NamedTuple):
    """The way in which clients reach a process.

    Attributes:
        listeners: the listening sockets of the process.
        security: the TLS files and the client policy; `listening.check` has accepted them.
        rates: the request rates of clients, over all processes.
    """

    listeners: Sequence[socket.socket]
    security: Security
    rates: Rates


def serve(
    service: Service,
    door: Door,
    say: Callable[[str], None],
    counted: Counted,
    ready: Callable[[], None],
    child: Child | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; then finish the current calls, within PROVIDER_SERVER_GRACE_SECONDS.

    Args:
        service: answers the requests.
        door: the way in which clients reach this process.
        say: prints lines for the operator.
        counted: the counters of this process, and the socket that shows those of all processes.
        ready: is called once the process serves.
        child: the connection to the parent, if this is one of several processes.

    Raises:
        DecoderError: a file cannot be used.
        RuntimeError: a thread cannot be started.
    """
    _check_threads()
    asyncio.run(_serve(service, door, say, counted, ready, child))


def _check_threads() -> None:
    """Check that the system allows the threads that gRPC's library starts, because the library crashes otherwise.

    Raises:
        RuntimeError: a thread cannot be started.
    """
    end = Event()
    threads = [Thread(target=end.wait) for _ in range(limits.PROVIDER_SERVER_OWN_THREADS)]
    try:
        for thread in threads:
            thread.start()
    finally:
        end.set()
        for thread in threads:
            if thread.ident is not None:
                thread.join()


async def _serve(
    service: Service,
    door: Door,
    say: Callable[[str], None],
    counted: Counted,
    ready: Callable[[], None],
    child: Child | None,
) -> None:
    stopping = asyncio.Event()
    if child:
        asyncio.get_running_loop().add_reader(child.lifeline, stopping.set)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    files = Files(door.security, say, counted.row)
    shortage = Shortage(say)
    asyncio.get_running_loop().set_exception_handler(shortage.handle)
    front = Front(door.listeners, files.tls, Refusals(service.provider).record, counted.row, shortage)
    threads = ThreadPoolExecutor(limits.PROVIDER_SERVER_THREADS, "keyprovider")
    calls = Calls(service, threads, say, counted.row, Gate(front, files.policy, door.rates))
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers((*calls.handlers(), _Health(stopping).handler()))
    server.add_insecure_port(front.target)
    await server.start()
    front.open()

    def look() -> None:
        if files.look():
            front.recheck()
        service.provider.sweep()

    watch = Watch(counted, service.provider, look)
    await watch.start()
    ready()
    await stopping.wait()
    watch.stopping()
    deadline = monotonic() + limits.PROVIDER_SERVER_GRACE_SECONDS
    await front.leave(limits.PROVIDER_SERVER_GRACE_SECONDS, lambda: calls.running == 0)
    if not calls.running:
        front.close()  # gRPC would wait for clients that ignore the request to leave
    await server.stop(max(0.0, deadline - monotonic()))
    front.close()
    threads.shutdown(wait=False, cancel_futures=True)


def say_listening(address: str, where: str, security: Security, say: Callable[[str], None]) -> None:
    """Report that the server is listening; warn if every client can unwrap keys."""
    if is_open_to_others(address, security):
        say(f"warning: every client that can reach {where} can unwrap keys; --client-ca requires a certificate")
    say(f"listening on {where}")


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

    async def _check(self, message: bytes, context: Context[bytes, bytes]) -> bytes:
        if not await self._knows(message, context):
            await abort(context, grpc.StatusCode.NOT_FOUND, "there is no such service")
        return _NOT_SERVING if self._stopping.is_set() else _SERVING

    async def _watch(self, message: bytes, context: Context[bytes, bytes]) -> AsyncIterator[bytes]:
        if not await self._knows(message, context):
            yield _SERVICE_UNKNOWN
            await self._stopping.wait()
            return
        yield _SERVING
        await self._stopping.wait()
        yield _NOT_SERVING

    async def _knows(self, message: bytes, context: Context[bytes, bytes]) -> bool:
        try:
            return protobuf.parse_bytes(message, 1) in (b"", SERVICE.encode())
        except ValueError as error:
            return await abort(context, grpc.StatusCode.INVALID_ARGUMENT, f"the message: {error}")


def _generic_handler(name: str, methods: dict[str, Any]) -> grpc.GenericRpcHandler:
    return grpc.method_handlers_generic_handler(name, methods)
