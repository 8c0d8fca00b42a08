"""`ctd-decoder grants approver`: the approver as a process, with its metrics."""

from __future__ import annotations

import random
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING

from decoder.commandline import say
from decoder.errors import DecoderError, ImageError, UsageError, quoted
from decoder.extras import missing
from decoder.grants.approval.approver import Approver
from decoder.grants.approval.policy import Policy, read_policy
from decoder.grants.cli.verbs import access_of
from decoder.grants.ownkeys import open_own_key
from decoder.node.filestate import state_of
from decoder.node.network import split_host_port
from decoder.node.unixsocket import ListenError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

    from prometheus_client import Metric


_PREFIX = "ctd_grants_"


class RoundFailedError(DecoderError):
    """A repository could not be read or written; the lines printed before have the reason."""

    status = 7


def run(parsed: Namespace) -> None:
    """Approve until SIGTERM or SIGINT, or once.

    Raises:
        UsageError: the policy is malformed.
        WrappingError: a keyprovider does not unwrap the owner's key.
        ListenError: the metrics cannot be served.
        RoundFailedError: with --once, something failed.
    """
    rules = Rules(parsed.policy)
    approver = Approver(access_of(parsed), say, parsed.dry_run)
    if parsed.once:
        if not approver.round(rules.policy, rules.key):
            raise RoundFailedError("a repository could not be read or written")
        return
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    metrics = Metrics(approver)
    if parsed.metrics:
        say(f"ctd-decoder: metrics at http://{metrics.serve(parsed.metrics)}/metrics")
    while not stopping.is_set():
        rules.refresh()
        metrics.ended(went_well=approver.round(rules.policy, rules.key))
        stopping.wait(rules.policy.interval * random.uniform(0.8, 1.2))  # noqa: S311 - so that replicas take turns
    say("ctd-decoder: stopped")


class Rules:
    """The policy and the owner's key. They are read again when their files change; invalid files are ignored.

    Args:
        path: the path of the policy.

    Raises:
        UsageError: the policy or the key cannot be used.
        WrappingError: a keyprovider failed.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.policy = read_policy(path)
        self._signature = _signature(self.policy)
        self.key = open_own_key("key", self.policy.key, self.policy.password_file)

    def refresh(self) -> None:
        """Read the policy again, and the key if it has changed."""
        try:
            policy = read_policy(self._path)
            if (signature := _signature(policy)) != self._signature:
                self.key = open_own_key("key", policy.key, policy.password_file)
                self._signature = signature
            self.policy = policy
        except DecoderError as error:
            say(f"ctd-decoder: warning: the policy cannot be used; the earlier one stays: {error}")


def _signature(policy: Policy) -> tuple[object, ...]:
    """Return a value that changes when the key, its password or their files change."""
    files = (policy.key.rpartition(":")[2], policy.password_file)
    return policy.key, policy.password_file, *map(state_of, files)


class Metrics:
    """The metrics for Prometheus.

    Args:
        approver: the approver, which counts its decisions.
    """

    def __init__(self, approver: Approver) -> None:
        self._approver = approver
        self._last = 0.0
        self._failed = 0

    def ended(self, went_well: bool) -> None:
        """Count a round that has ended."""
        if went_well:
            self._last = time.time()
        else:
            self._failed += 1

    def serve(self, address: str) -> str:
        """Serve the metrics from another thread; return the address with its port.

        Args:
            address: HOST:PORT; without a host, all addresses of this machine.

        Raises:
            UsageError: the address is malformed.
            ListenError: the address cannot be used.
            ImageError: prometheus-client is not installed.
        """
        try:
            from prometheus_client import CollectorRegistry, start_http_server
        except ImportError as error:
            raise ImageError(missing("metrics", error)) from error
        try:
            host, port = split_host_port(address)
        except ValueError as error:
            raise UsageError(f"--metrics {quoted(address)} is not HOST:PORT") from error
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        everywhere = "::" if socket.has_dualstack_ipv6() else "0.0.0.0"  # noqa: S104 - as it was asked for
        try:
            server, _ = start_http_server(port, host or everywhere, registry)
        except OSError as error:
            raise ListenError(f"cannot listen on --metrics {quoted(address)}: {error.strerror}") from error
        return f"{host or 'localhost'}:{server.server_port}"

    def collect(self) -> Iterator[Metric]:
        """Yield each metric with its values."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        decisions = CounterMetricFamily(f"{_PREFIX}decisions", "Decisions about requests", labels=["decision"])
        for name, count in self._approver.counts.items():
            decisions.add_metric([name], count)
        yield decisions
        yield GaugeMetricFamily(f"{_PREFIX}requests_waiting", "Requests that wait for a person", self._approver.waiting)
        yield CounterMetricFamily(f"{_PREFIX}failed_rounds", "Rounds with a registry that failed", self._failed)
        yield GaugeMetricFamily(f"{_PREFIX}last_good_round_timestamp_seconds", "The last other round", self._last)
