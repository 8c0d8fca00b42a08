"""A fleet that pulls an image at the same time: nodes, key servers and a key service, simulated with SimPy.

What a call costs the servers is measured, not assumed. Left out are networks, registries and what the nodes do with
their layers: they ask as fast as a pull could possibly be.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Generator
from typing import Any, NamedTuple

import simpy

from decoder import limits

_SEED = 7
_LAYER_SECONDS = 0.2  # from one layer of a pull to the next
_ATTEMPT_SECONDS = 0.2  # what a client wants to have left for another attempt


class Costs(NamedTuple):
    """Measured times.

    Attributes:
        call: the processor time of a server for a call on an open connection, in seconds.
        connection: the additional processor time of a call that opens its connection.
        asking: the additional processor time of a call that asks the key service; 0 for a provider without one.
        service: the seconds until the key service has answered.
        service_rate: the maximum number of calls per second that the key service answers.
    """

    call: float
    connection: float
    asking: float = 0
    service: float = 0
    service_rate: float = 0


class Scenario(NamedTuple):
    """Who asks whom, how often.

    Attributes:
        nodes: the number of nodes that pull.
        layers: the number of layers of the image.
        seconds: the time within which all nodes begin, evenly at random.
        is_once: whether a node asks once for the image's key-encryption key, or for each layer.
        is_cached: whether a server keeps that key, so that the key service is asked once by each server.
        images: how many different images the nodes pull.
        replicas: the number of servers.
        processes: the number of processes of each server, with a processor each.
    """

    nodes: int
    layers: int
    seconds: float
    is_once: bool
    is_cached: bool
    images: int
    replicas: int
    processes: int = 2


class Outcome(NamedTuple):
    """The result of a simulation.

    Attributes:
        failed: the number of nodes for which a call failed.
        times: the seconds of each call with all its attempts, in order.
        end: the seconds until the last node was done.
        service_calls: the number of calls of the key service.
        service_peak: the maximum of these calls in one second.
    """

    failed: int
    times: list[float]
    end: float
    service_calls: int
    service_peak: int

    def quantile(self, share: float) -> float:
        """Return the seconds within which this share of the calls was answered."""
        return self.times[min(len(self.times) - 1, int(len(self.times) * share))]


class _BusyError(Exception):
    """The server has too much to do; the client waits."""


class _Server:
    """What the processes of a server share: opened keys, and questions to the key service that are not answered yet."""

    def __init__(self) -> None:
        self.keks: dict[int, float] = {}
        self.asking: dict[int, simpy.Event] = {}


class _Process:
    """A process of a server: one processor, and the bounds of `decoder.limits`."""

    def __init__(self, environment: simpy.Environment, server: _Server) -> None:
        self.server = server
        self.processor = simpy.Resource(environment, 1)
        self.connections = self.waiting = 0


class _Fleet:
    def __init__(self, scenario: Scenario, costs: Costs) -> None:
        self.environment = simpy.Environment()
        self.random = random.Random(_SEED)  # noqa: S311 - a simulation that can be repeated
        self.scenario = scenario
        self.costs = costs
        servers = [_Server() for _ in range(scenario.replicas)]
        self.processes = [_Process(self.environment, each) for each in servers for _ in range(scenario.processes)]
        at_once = max(1, round(costs.service_rate * costs.service))
        self.service = simpy.Resource(self.environment, at_once)
        self.service_seconds = at_once / costs.service_rate if costs.asking else 0.0
        self.times: list[float] = []
        self.failed = 0
        self.service_times: list[float] = []

    def node(self) -> Generator[simpy.Event, Any, None]:
        """Begin at some time, and ask for the image or for each layer."""
        yield self.environment.timeout(self.random.uniform(0, self.scenario.seconds))
        image = self.random.randrange(self.scenario.images)
        for _ in range(1 if self.scenario.is_once else self.scenario.layers):
            if not (yield self.environment.process(self.ask(image))):
                self.failed += 1
                return
            yield self.environment.timeout(_LAYER_SECONDS)

    def ask(self, image: int) -> Generator[simpy.Event, Any, bool]:
        """Call until it is answered, with pauses that grow, as the client does (exponential, full jitter)."""
        started = self.environment.now
        bound = limits.PROVIDER_FIRST_PAUSE_SECONDS
        while True:
            process = self.random.choice(self.processes)  # the Service, and then the kernel, choose by chance
            try:
                yield self.environment.process(self.call(process, image))
            except _BusyError:
                pause = self.random.uniform(0, bound)
                bound = min(2 * bound, limits.PROVIDER_LONGEST_PAUSE_SECONDS)
                if self.environment.now + pause + _ATTEMPT_SECONDS - started > limits.PROVIDER_SECONDS:
                    return False
                yield self.environment.timeout(pause)
            else:
                taken = self.environment.now - started
                self.times.append(taken)
                return taken <= limits.PROVIDER_SECONDS

    def call(self, process: _Process, image: int) -> Generator[simpy.Event, Any, None]:
        """Make a connection and one call on it."""
        if process.connections >= limits.PROVIDER_SERVER_CONNECTIONS:
            raise _BusyError
        process.connections += 1
        try:
            yield from self.work(process, self.costs.connection + self.costs.call)
            kept = process.server.keks.get(image, 0.0) > self.environment.now
            if self.costs.asking and not (self.scenario.is_cached and kept):
                yield from self.ask_service(process, image)
        finally:
            process.connections -= 1

    def ask_service(self, process: _Process, image: int) -> Generator[simpy.Event, Any, None]:
        """Call the key service, or wait for the answer that another call of the same server is waiting for."""
        if self.scenario.is_cached and image in process.server.asking:
            yield process.server.asking[image]
            return
        if process.waiting >= limits.PROVIDER_SERVER_WAITING:
            raise _BusyError
        process.waiting += 1
        answered = process.server.asking[image] = self.environment.event()
        yield from self.work(process, self.costs.asking)
        with self.service.request() as turn:
            yield turn
            self.service_times.append(self.environment.now)
            yield self.environment.timeout(self.service_seconds)
        process.waiting -= 1
        process.server.keks[image] = self.environment.now + limits.KEK_SECONDS
        process.server.asking.pop(image, None)
        answered.succeed()

    def work(self, process: _Process, seconds: float) -> Generator[simpy.Event, Any, None]:
        with process.processor.request() as turn:
            yield turn
            yield self.environment.timeout(seconds)


def simulate(scenario: Scenario, costs: Costs) -> Outcome:
    """Let a fleet pull."""
    fleet = _Fleet(scenario, costs)
    for _ in range(scenario.nodes):
        fleet.environment.process(fleet.node())
    fleet.environment.run()
    by_second = Counter(int(moment) for moment in fleet.service_times)
    times = sorted(fleet.times) or [0.0]
    return Outcome(fleet.failed, times, fleet.environment.now, by_second.total(), max(by_second.values(), default=0))
