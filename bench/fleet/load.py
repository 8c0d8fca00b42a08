"""Clients that ask a server again and again, each when its last call was answered, over mutual TLS.

The generator is one process. What it takes of the processor is measured beside the server's, since both share the
machine: a latency says something of the server only while the generator does not wait for the processor itself.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any, NamedTuple

import grpc
import grpc.aio

from bench.fleet.server import HOST, Server
from bench.programs import RunError

_SECONDS = 60.0
_UNWRAP = "/keyprovider.KeyProviderService/UnWrapKey"


class Load(NamedTuple):
    """What was measured.

    Attributes:
        clients: the number of clients that asked at the same time.
        is_kept: whether each kept its connection, or opened one for each call.
        calls: the number of calls that were answered.
        wall: the seconds for all calls.
        server: the processor time of the server, in seconds.
        generator: the processor time of the clients, in seconds.
        times: the seconds of each call, in order.
    """

    clients: int
    is_kept: bool
    calls: int
    wall: float
    server: float
    generator: float
    times: list[float]

    @property
    def rate(self) -> float:
        """Calls in a second."""
        return self.calls / self.wall

    def quantile(self, share: float) -> float:
        """Return the seconds within which this share of the calls was answered."""
        return self.times[min(len(self.times) - 1, int(len(self.times) * share))]


def run(server: Server, message: bytes, clients: int, is_kept: bool, calls: int, rate: float = 0) -> Load:
    """Have clients call UnWrapKey.

    Args:
        server: the server to call.
        message: the request.
        clients: how many clients call at the same time.
        is_kept: whether each keeps its connection.
        calls: the number of calls of all clients together.
        rate: the maximum number of calls per second of all clients together; 0 for no bound.

    Raises:
        RunError: a call failed.
    """
    try:
        return asyncio.run(_run(server, message, clients, is_kept, calls, rate))
    except grpc.aio.AioRpcError as error:
        raise RunError(f"a call failed: {error.code()}: {error.details()}") from error


async def _run(server: Server, message: bytes, clients: int, is_kept: bool, calls: int, rate: float) -> Load:
    def connect() -> grpc.aio.Channel:
        # A pool of its own, or channels with equal arguments share a connection.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", HOST)]
        return grpc.aio.secure_channel(server.target, credentials, options)

    async def ask(channel: grpc.aio.Channel) -> None:
        method: Any = channel.unary_unary(_UNWRAP)
        await method(message, timeout=_SECONDS)

    async def once(channel: grpc.aio.Channel | None) -> float:
        started = time.perf_counter()
        if channel:
            await ask(channel)
        else:
            async with connect() as own:
                await ask(own)
        return time.perf_counter() - started

    async def client(channel: grpc.aio.Channel | None, number: int) -> list[float]:
        times = []
        for turn in range(calls // clients):
            if rate:
                due = begun + (turn * clients + number) / rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
            times.append(await once(channel))
        return times

    read = [(server.directory / name).read_bytes() for name in ("ca.pem", "client.key", "client.pem")]
    credentials = grpc.ssl_channel_credentials(*read)
    channels = [connect() for _ in range(clients)] if is_kept else []
    await asyncio.gather(*map(ask, channels))
    begun, server_before, generator_before = time.perf_counter(), server.seconds(), _own_seconds()
    results = await asyncio.gather(
        *(client(channels[number] if is_kept else None, number) for number in range(clients))
    )
    wall = time.perf_counter() - begun
    times = sorted(each for result in results for each in result)
    load = Load(
        clients, is_kept, len(times), wall, server.seconds() - server_before, _own_seconds() - generator_before, times
    )
    await asyncio.gather(*(channel.close() for channel in channels))
    return load


def _own_seconds() -> float:
    used = os.times()
    return used.user + used.system
