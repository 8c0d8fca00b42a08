"""The metrics of a server for Prometheus. docs/server.md lists the names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from decoder import __version__, limits
from decoder.provider.server.numbers import tally as tallies

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client import Metric

    from decoder.provider.server.numbers.tally import Tally

_PREFIX = "ctd_keyprovider_"


class Exposition(Collector):
    """Writes the metrics of all processes.

    Args:
        provider: the value of the label `provider`.
        tally: the counters of all processes.
    """

    def __init__(self, provider: str, tally: Tally) -> None:
        self._provider = provider
        self._tally = tally
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def write(self, accept: str) -> tuple[bytes, str]:
        """Write all metrics.

        Args:
            accept: the request's header Accept (RFC 9110 §12.5.1).

        Returns:
            The body and its Content-Type.
        """
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def collect(self) -> Iterator[Metric]:
        """Yield each metric with its values."""
        yield self._counter("requests", "Requests", tallies.OUTCOMES)
        yield self._histogram("request", "Time to answer a request that was understood")
        yield self._counter("backend_requests", "Calls of the key service", tallies.BACKEND_OUTCOMES)
        yield self._histogram("backend", "Time that calls of the key service took")
        yield from self._gauges()
        handshakes = CounterMetricFamily(f"{_PREFIX}refused_handshakes", "Connections refused in the TLS handshake")
        handshakes.add_metric([], self._tally.total("refused_handshakes"))
        yield handshakes
        connections = CounterMetricFamily(f"{_PREFIX}refused_connections", "Connections refused beyond the limit")
        connections.add_metric([], self._tally.total("refused_connections"))
        yield connections
        yield from self._states()

    def _counter(self, name: str, text: str, outcomes: tuple[str, ...]) -> Metric:
        labels = ("provider", "operation", "outcome")
        family = CounterMetricFamily(_PREFIX + name, text, labels=labels)
        for operation in tallies.OPERATIONS:
            for outcome in outcomes:
                family.add_metric((self._provider, operation, outcome), self._tally.total(name, operation, outcome))
        return family

    def _histogram(self, name: str, text: str) -> Metric:
        family = HistogramMetricFamily(f"{_PREFIX}{name}_duration_seconds", text, labels=("provider", "operation"))
        for operation in tallies.OPERATIONS:
            buckets, count = [], 0.0
            for bound in tallies.BOUNDS:
                count += self._tally.total(f"{name}_seconds", operation, str(bound))
                buckets.append(("+Inf" if bound == float("inf") else str(bound), count))
            total = self._tally.total(f"{name}_seconds", operation, "sum")
            family.add_metric((self._provider, operation), buckets, total)
        return family

    def _gauges(self) -> Iterator[Metric]:
        processes = sum(1 for _ in self._tally.living())
        yield _gauge("processes", "Processes that serve", processes)
        yield _gauge("requests_in_flight", "Requests that are being answered", self._tally.total("in_flight"))
        yield _gauge(
            "requests_in_flight_limit",
            "The bound on requests that are being answered",
            processes * limits.PROVIDER_SERVER_CALLS,
        )
        yield _gauge("requests_waiting", "Requests that wait for the key service", self._tally.total("waiting"))
        yield _gauge(
            "requests_waiting_limit", "The bound on requests that wait", processes * limits.PROVIDER_SERVER_WAITING
        )
        yield _gauge("connections", "Open connections", self._tally.total("connections"))
        yield _gauge(
            "connections_limit", "The bound on open connections", processes * limits.PROVIDER_SERVER_CONNECTIONS
        )
        up = any(row.get("backend_up") for row in self._tally.living())
        yield _gauge("backend_up", "1 if the key service can be reached and keys can be read", up)

    def _states(self) -> Iterator[Metric]:
        expiry = GaugeMetricFamily(
            f"{_PREFIX}certificate_expiry_timestamp_seconds", "When the certificate expires", labels=("certificate",)
        )
        for which in tallies.CERTIFICATES:
            if ends := [end for row in self._tally.living() if (end := row.get("expiry", which))]:
                expiry.add_metric((which,), min(ends))
        yield expiry
        failed = GaugeMetricFamily(
            f"{_PREFIX}reload_failed",
            "1 if changed files cannot be used and earlier ones are in use",
            labels=("files",),
        )
        for what in tallies.RELOADED:
            failed.add_metric((what,), max((row.get("reload_failed", what) for row in self._tally.living()), default=0))
        yield failed
        build = GaugeMetricFamily(f"{_PREFIX}build_info", "The version of the program", labels=("version",))
        build.add_metric((__version__,), 1)
        yield build


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(_PREFIX + name, text, value=value)
