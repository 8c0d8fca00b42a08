"""A keeper: a process that queries keyproviders on behalf of workers and caches what is slow to create.

Each environment and current directory of clients has its own keeper, so that a provider sees what it would see in the
client. If anything fails, the keeper only closes the connection, and the worker asks the provider itself.
"""

from __future__ import annotations

import gc
import os
import select
import socket
import threading
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, NoReturn, cast

from decoder import limits
from decoder.agent import messages
from decoder.agent.processes import keeping
from decoder.keywrap import asking
from decoder.node import journal
from decoder.provider.client.held import Held
from decoder.provider.errors import ProviderError
from decoder.provider.keks import Keks

if TYPE_CHECKING:
    from decoder.provider.client.protocol import Operation


def keep(requests: socket.socket, lifeline: int, opened_seconds: float) -> NoReturn:
    """Answer workers until none has asked for AGENT_KEEPER_SECONDS or the agent ends; then end this process.

    Args:
        requests: a socket on which each message brings a connection to a worker.
        lifeline: the reading end of a pipe that closes when the agent ends.
        opened_seconds: how long an opened key-encryption key is used again; 0 for not at all.
    """
    gc.enable()
    keeper = _Keeper(_keks(opened_seconds))
    waiting = select.poll()
    waiting.register(requests, select.POLLIN)
    waiting.register(lifeline, 0)
    end = monotonic() + limits.AGENT_KEEPER_SECONDS
    while monotonic() <= end or threading.active_count() > 1:
        events = waiting.poll(limits.AGENT_SWEEP_SECONDS * 1000)
        keeper.sweep()
        if any(descriptor == lifeline for descriptor, _ in events):
            break
        if events:
            end = monotonic() + max(limits.AGENT_KEEPER_SECONDS, opened_seconds)
            keeper.begin(socket.recv_fds(requests, 1, 1, socket.MSG_CMSG_CLOEXEC)[1])
    os._exit(0)


def _keks(seconds: float) -> Keks | None:
    try:
        return Keks(seconds) if seconds else None
    except OSError as error:
        journal.warn(f"key-encryption keys are not kept: the memory for them cannot be locked: {error.strerror}")
        return None


class _Keeper:
    def __init__(self, keks: Keks | None) -> None:
        self._held = Held(limits.AGENT_KEEPER_SECONDS, keks)
        self._lock = threading.Lock()
        self._is_settled = False

    def sweep(self) -> None:
        """Wipe the key-encryption keys that have expired."""
        if self._held.keks:
            self._held.keks.sweep()

    def begin(self, descriptors: list[int]) -> None:
        """Answer a worker, in a thread; if none can be started, the worker asks the provider itself."""
        for descriptor in descriptors:
            connection = socket.socket(fileno=descriptor)
            try:
                threading.Thread(target=self._answer, args=[connection], daemon=True).start()
            except RuntimeError:  # RLIMIT_NPROC, cgroups, memory
                connection.close()

    def _answer(self, connection: socket.socket) -> None:
        with connection, suppress(Exception):  # the worker meets the same failure and reports it
            _, surroundings, provider, question = messages.receive(
                connection, limits.AGENT_KEEPER_BYTES, limits.AGENT_KEEPER_REQUEST_SECONDS
            )
            self._settle(*cast("tuple[bytes, dict[bytes, bytes]]", surroundings))
            configured = keeping.unpack(cast("list[object]", provider))
            connection.settimeout(limits.AGENT_KEEPER_REQUEST_SECONDS)
            operation, data, parameters = cast("tuple[str, bytes, list[bytes]]", question)
            if operation == keeping.IS_KEPT:
                is_kept = asking.has_opened(configured, data, parameters, self._held)
                messages.send(connection, bytes([1]) if is_kept else b"")
                return
            try:
                opened = asking.ask(configured, cast("Operation", operation), data, parameters, self._held)
                messages.send(connection, opened)
            except ProviderError as error:
                messages.send(connection, str(error))

    def _settle(self, directory: bytes, environment: dict[bytes, bytes]) -> None:
        with self._lock:
            if not self._is_settled:
                os.chdir(directory)
                os.environb.clear()
                os.environb.update(environment)
                self._is_settled = True
