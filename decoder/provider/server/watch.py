"""The health of a server's process: it reports that it is alive, checks its key service, and answers probes."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from decoder import limits
from decoder.errors import quoted
from decoder.extras import missing
from decoder.node.unixsocket import ListenError
from decoder.provider.errors import ProviderError
from decoder.provider.server.connections.listening import parse_address, resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from decoder.provider.audit import Provider
    from decoder.provider.server.numbers.status import Status
    from decoder.provider.server.numbers.tally import Row, Tally


class Counted(NamedTuple):
    """The counters of a process, and the socket that shows those of all processes.

    Attributes:
        tally: the counters of all processes.
        row: the counters of this process.
        listener: the listening socket of --metrics, or None.
    """

    tally: Tally
    row: Row
    listener: socket.socket | None = None


@contextmanager
def listener(address: str, say: Callable[[str], None]) -> Iterator[socket.socket | None]:
    """Listen for probes and Prometheus.

    Args:
        address: [HOST]:PORT, or "" for no socket.
        say: prints lines for the operator.

    Raises:
        UsageError: the address is malformed.
        ListenError: the address is in use, or not an address of this machine.
        ProviderError: prometheus-client is not installed.
    """
    if not address:
        yield None
        return
    try:
        import prometheus_client  # noqa: F401 - fail now, and not at the first request
    except ImportError as error:
        raise ProviderError(missing("metrics", error)) from error
    host, port = parse_address(address, "--metrics")
    family = resolve(host, port)[0][0]
    try:
        listening = socket.create_server(
            (host, port), family=family, dualstack_ipv6=not host and family != socket.AF_INET
        )
    except OSError as error:
        raise ListenError(f"cannot listen on --metrics {quoted(address)}: {error.strerror}") from error
    with listening:
        shown = f"[{host}]" if ":" in host else host
        say(f"metrics at http://{shown or 'localhost'}:{listening.getsockname()[1]}/metrics")
        yield listening


class Watch:
    """The health of one process.

    Args:
        counted: the counters to update and to show.
        provider: the provider, whose key service is checked.
        look: checks for changed files; it is called about every second.
    """

    def __init__(self, counted: Counted, provider: Provider, look: Callable[[], None]) -> None:
        self._counted = counted
        self._provider = provider
        self._look = look
        self._thread = ThreadPoolExecutor(1, "watch")
        self._status: Status | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start the tasks. Without --metrics nobody sees the state of the key service, so it is not checked."""
        self._counted.row.beat()
        self._tasks = [asyncio.create_task(self._beat())]
        if self._counted.listener is None:
            return
        from decoder.provider.server.numbers.metrics import Exposition
        from decoder.provider.server.numbers.status import Status

        exposition = Exposition(self._provider.name, self._counted.tally)
        self._status = Status(self._counted.tally, exposition.write)
        self._tasks.append(asyncio.create_task(self._check_again()))
        self._server = await self._status.serve(self._counted.listener)

    def stopping(self) -> None:
        """Report the server as not ready from now on."""
        if self._status:
            self._status.stopping = True

    async def _beat(self) -> None:
        while True:
            self._counted.row.beat()
            self._look()
            await asyncio.sleep(limits.PROVIDER_SERVER_BEAT_SECONDS)

    async def _check_again(self) -> None:
        while True:
            await self._check()
            await asyncio.sleep(limits.PROVIDER_SERVER_CHECK_SECONDS)

    async def _check(self) -> None:
        """Check the key service in a separate thread, because calls may occupy all others."""
        try:
            found = asyncio.get_running_loop().run_in_executor(self._thread, _is_up, self._provider)
            is_up = await asyncio.wait_for(found, limits.PROVIDER_SERVER_CHECK_SECONDS)
        except (TimeoutError, RuntimeError):  # or the system allows no further thread
            is_up = False
        self._counted.row.set("backend_up", value=is_up)


def _is_up(provider: Provider) -> bool:
    try:
        provider.reach(limits.PROVIDER_PROBE_SECONDS)
    except ProviderError:
        return False
    return True
