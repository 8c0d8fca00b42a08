"""The sources of image keys, named `KIND:WHERE` and tried in the order in which they are given.

The module of a kind has a function that takes WHERE and the options of the provider, and returns a source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast, runtime_checkable

from decoder import limits
from decoder.errors import UsageError, quoted
from decoder.keywrap.unproven import not_opened
from decoder.layer.annotations import parse_private_options
from decoder.provider import Checked
from decoder.provider.deadline import within
from decoder.provider.errors import ProviderError
from decoder.provider.services.coco.packet import CTR_MODE, HubPacket, NotOpenedError, Packet, open_with

if TYPE_CHECKING:
    from decoder.keywrap.kid import ResourceId

# The module of each kind in this package, and the function in it that creates the source.
_KINDS = {
    "repository": ("repository", "create"),
    "offline": ("offline", "create"),
    "cdh-rest": ("cdhrest", "create"),
    "cdh-grpc": ("cdhunwrap", "create_grpc"),
    "cdh-ttrpc": ("cdhunwrap", "create_ttrpc"),
    "kbs": ("kbs.source", "create"),
}
_FILES = ("repository", "offline")  # they need no attestation, which makes the first request to other kinds slow
KINDS = ("repository:DIR", "offline:FILE[,FILE]", "cdh-rest:URL", "cdh-grpc:HOST:PORT", "cdh-ttrpc:SOCKET", "kbs:URL")


@runtime_checkable
class KeySource(Protocol):
    """A source that returns resources. The texts of its errors name neither the source nor the resource."""

    def describe(self) -> str:
        """Return the name of the source for messages, `KIND:WHERE`, which contains no secret."""

    def key(self, resource: ResourceId, seconds: float) -> bytes:
        """Fetch a resource.

        Args:
            resource: its id.
            seconds: the time limit.

        Returns:
            Its bytes, at most COCO_RESOURCE_BYTES; the caller checks that they are a key.

        Raises:
            ProviderError: the resource does not exist or is larger, or the source denies access to it.
        """


@runtime_checkable
class UnwrapSource(Protocol):
    """A source that unwraps packets with keys that it does not reveal. Its errors are like those of a KeySource."""

    def describe(self) -> str:
        """Return the name of the source for messages, `KIND:WHERE`, which contains no secret."""

    def unwrap(self, packet: bytes, seconds: float) -> bytes:
        """Unwrap private options.

        Args:
            packet: the packet as it stands in the image.
            seconds: the time limit.

        Raises:
            ProviderError: the source did not unwrap them.
        """


@runtime_checkable
class Reachable(Protocol):
    """A source that can be checked without a request for a key."""

    def reach(self, seconds: float) -> None:
        """Check that the source can be reached.

        Args:
            seconds: the time limit of each request.

        Raises:
            ProviderError: the source cannot be reached.
        """


Source = KeySource | UnwrapSource


class TimedSource(NamedTuple):
    """A source, and its time limit for one packet, in seconds."""

    source: Source
    seconds: float


def parse_sources(options: Mapping[str, str]) -> list[TimedSource]:
    """Create the sources that the provider's options name, in their order, without any request.

    Args:
        options: the options of the provider. `source` has a line `KIND:WHERE` for each source, `source-timeout` lines
            `KIND=SECONDS`.

    Raises:
        UsageError: there are more than COCO_SOURCES, a kind does not exist, a source rejects its WHERE or the options,
            or a time is not between 0 and PROVIDER_TIMEOUT_SECONDS.
        ProviderError: a library or a file that a source needs is missing.
    """
    named = options.get("source", "").splitlines()
    if len(named) > limits.COCO_SOURCES:
        raise UsageError(f"there are more than {limits.COCO_SOURCES} sources")
    times = _parse_times(options.get("source-timeout", "").splitlines())
    return [TimedSource(_parse_source(text, options), _seconds(text.partition(":")[0], times)) for text in named]


def _seconds(kind: str, times: Mapping[str, float]) -> float:
    default = limits.COCO_SOURCE_SECONDS if kind in _FILES else limits.COCO_ATTESTATION_SECONDS
    return times.get(kind, default)


def _parse_times(lines: Sequence[str]) -> dict[str, float]:
    times = {}
    for line in lines:
        kind, _, number = line.partition("=")
        try:
            seconds = float(number)
        except ValueError:
            seconds = 0.0
        if kind not in _KINDS or not 0 < seconds <= limits.PROVIDER_TIMEOUT_SECONDS:
            raise UsageError(
                f"the option source-timeout {quoted(line)} is not KIND=SECONDS with one of {', '.join(_KINDS)} and at "
                f"most {limits.PROVIDER_TIMEOUT_SECONDS:.0f} seconds"
            )
        times[kind] = seconds
    return times


def _parse_source(text: str, options: Mapping[str, str]) -> Source:
    kind, _, where = text.partition(":")
    if kind not in _KINDS or not where:
        raise UsageError(f"the source {quoted(kind)} is not one of {', '.join(KINDS)}")
    module, function = _KINDS[kind]
    create = getattr(import_module(f"decoder.provider.services.coco.{module}"), function)
    return cast("Callable[[str, Mapping[str, str]], Source]", create)(where, options)


def unwrap_first(sources: Sequence[TimedSource], annotation: bytes, packet: Packet | HubPacket) -> bytes:
    """Unwrap private options with the first source that can, each within its own time.

    Args:
        sources: the sources, in the order in which they are tried.
        annotation: the packet as it stands in the image.
        packet: the same packet, parsed.

    Returns:
        The private options. If a source's key does not open a packet with A256CTR, they are random, because this
        failure must look like that of a changed packet until the layer's HMAC is checked (`keywrap.unproven`).

    Raises:
        ProviderError: every source failed; the message has the reason of each.
    """
    if isinstance(packet, HubPacket):
        sources = [timed for timed in sources if isinstance(timed.source, UnwrapSource)]
        if not sources:
            raise ProviderError(
                f"the packet was wrapped by the key management service {quoted(packet.provider)}, which only the "
                "Confidential Data Hub of a guest can ask: configure the source cdh-ttrpc or cdh-grpc"
            )
    failures = []
    last: ProviderError | None = None
    is_not_opened = False
    for source, seconds in sources:
        try:
            return within(seconds, partial(_unwrap, source, annotation, packet, seconds))
        except ProviderError as error:
            last = error
            is_not_opened = is_not_opened or isinstance(error, NotOpenedError)
            failures.append(f"source {source.describe()}, kid {quoted_name(packet)}: {error}")
    if is_not_opened:
        return not_opened()
    raise ProviderError("; ".join(failures)) from last


def check_sources(sources: Sequence[TimedSource], seconds: float) -> Checked:
    """Check that each source can be reached, without a request for a key.

    Args:
        sources: the sources to check.
        seconds: the time limit of each request.
    """
    checked = Checked([], [])
    for source in (timed.source for timed in sources):
        try:
            if isinstance(source, Reachable):
                source.reach(seconds)
            checked.works.append(f"source {source.describe()} can be reached")
        except ProviderError as error:
            checked.problems.append(f"source {source.describe()}: {error}")
    return checked


def quoted_name(packet: Packet | HubPacket) -> str:
    """Return the name of a packet's key for messages; the ids of key brokers have no character that needs quotes."""
    return packet.key_name if isinstance(packet, Packet) else quoted(packet.key_name)


def _unwrap(source: Source, annotation: bytes, packet: Packet | HubPacket, seconds: float) -> bytes:
    if isinstance(source, KeySource) and isinstance(packet, Packet):
        return open_with(source.key(packet.kid, seconds), packet)
    options = cast("UnwrapSource", source).unwrap(annotation, seconds)
    try:
        parse_private_options(options)
    except ValueError as error:
        if isinstance(packet, Packet) and packet.wrap_type == CTR_MODE:
            raise NotOpenedError("it does not open the packet") from error
        raise ProviderError(f"it unwrapped the packet to malformed private options: {error}") from error
    return options
