"""Where image keys come from: sources named `KIND:WHERE`, tried in the order in which they are given.

The module of a kind has a function that takes WHERE and the options of the provider, and returns a source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

from decoder import limits
from decoder.errors import UsageError, quoted
from decoder.layer import annotations as layer
from decoder.provider.deadline import within
from decoder.provider.errors import ProviderError
from decoder.provider.services.coco.packet import Packet, open_with

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
KINDS = ("repository:DIR", "offline:FILE[,FILE]", "cdh-rest:URL", "cdh-grpc:HOST:PORT", "cdh-ttrpc:SOCKET", "kbs:URL")


@runtime_checkable
class KeySource(Protocol):
    """Has resources, and hands them out. The texts of its errors name neither the source nor the resource."""

    def describe(self) -> str:
        """Name it for a message, `KIND:WHERE`; there is no secret in it."""

    def key(self, resource: ResourceId) -> bytes:
        """Fetch a resource.

        Returns:
            Its bytes, at most COCO_RESOURCE_BYTES; it is checked elsewhere that they are a key.

        Raises:
            ProviderError: it is not there, larger, or not for us.
        """


@runtime_checkable
class UnwrapSource(Protocol):
    """Has keys that it keeps for itself, and unwraps packets. Its errors are like those of a KeySource."""

    def describe(self) -> str:
        """Name it for a message, `KIND:WHERE`; there is no secret in it."""

    def unwrap(self, packet: bytes, kid: ResourceId) -> bytes:
        """Unwrap private options.

        Args:
            packet: the annotation as the image has it.
            kid: what it names, for messages.

        Raises:
            ProviderError: it did not.
        """


Source = KeySource | UnwrapSource


def parse_source(text: str, options: Mapping[str, str]) -> Source:
    """Create the source that `KIND:WHERE` names; nothing is asked of it yet.

    Args:
        text: as the command line or the configuration has it.
        options: those of the provider.

    Raises:
        UsageError: there is no such kind, or it cannot be used with this place or these options.
        ProviderError: a library or a file that it needs is not there.
    """
    kind, _, where = text.partition(":")
    if kind not in _KINDS or not where:
        raise UsageError(f"the source {quoted(kind)} is not one of {', '.join(KINDS)}")
    module, function = _KINDS[kind]
    create = getattr(import_module(f"decoder.provider.services.coco.{module}"), function)
    return cast("Callable[[str, Mapping[str, str]], Source]", create)(where, options)


def unwrap_first(sources: Sequence[Source], annotation: bytes, packet: Packet) -> bytes:
    """Unwrap private options with the first source that can, each within COCO_SOURCE_SECONDS.

    Args:
        sources: in the order in which they are tried.
        annotation: the packet as the image has it.
        packet: the same, parsed.

    Raises:
        ProviderError: none could; the text has the reason of each.
    """
    failures = []
    for source in sources:
        try:
            return within(limits.COCO_SOURCE_SECONDS, partial(_unwrap, source, annotation, packet))
        except ProviderError as error:
            failures.append(f"source {source.describe()}, kid {packet.kid}: {error}")
    raise ProviderError("; ".join(failures))


def _unwrap(source: Source, annotation: bytes, packet: Packet) -> bytes:
    if isinstance(source, KeySource):
        return open_with(source.key(packet.kid), packet)
    options = source.unwrap(annotation, packet.kid)
    try:
        layer.parse_private_options(options)
    except ValueError as error:
        raise ProviderError(f"it unwrapped the packet to malformed private options: {error}") from None
    return options
