"""Keyproviders: key services that wrap and unwrap private options (ocicrypt's keyprovider protocol).

One module per key service, named in PROVIDERS (with `_` for its dash). It has OPTIONS, the options that it understands,
and a function `create(options, policy)` that returns a Provider; the service's SDK is imported when it is created.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Protocol, cast

from decoder.errors import UsageError, quoted
from decoder.provider.policy import KeyPolicy
from decoder.record import Record

PROVIDERS = ("gcpkms", "awskms", "azurekv", "openbao", "local", "pkcs11", "attestation-agent")


class Option(Record):
    """An option of a provider: `--NAME VALUE` on the command line, `"NAME": VALUE` in the configuration file.

    Attributes:
        name: in lower case with dashes.
        help: a few words for --help.
        many: whether it may be given several times (a list, in the configuration file); its values then come to
            `create` joined by line feeds.
        also: further names that people have in their files.
        serving: the value that it has in a server that is not given it, which answers others' requests.
        flag: whether it takes no value: `true` or `false` in the configuration file; `create` gets "true" or "".
    """

    name: str
    help: str
    many: bool = False
    also: tuple[str, ...] = ()
    serving: str | None = None
    flag: bool = False


# Every provider has these.
COMMON_OPTIONS = (
    Option("allow-key", "a shell pattern of keys that images may use; without it only the configured key", many=True),
)


class Provider(Protocol):
    """What every key service can do."""

    def wrap(self, options: bytes, parameters: Sequence[str]) -> bytes:
        """Wrap private options.

        Args:
            options: the private options, at most PRIVATE_OPTIONS_BYTES.
            parameters: the key to use: what follows `provider:NAME:`, or nothing (`Enabled` stands for nothing).

        Returns:
            The annotation, before its base64: what `unwrap` reads.

        Raises:
            ProviderError: it failed, or the key is not one that may be used.
        """

    def unwrap(self, annotation: bytes, parameters: Sequence[str]) -> bytes:
        """Unwrap private options.

        Args:
            annotation: what `wrap` returned; it comes from a registry and is not to be trusted.
            parameters: the keys that the caller allows; none if it leaves that to the configuration.

        Raises:
            ProviderError: it failed, the annotation is malformed, or the key is not one that may be used.
        """


def options_of(name: str) -> tuple[Option, ...]:
    """List the options that a provider understands.

    Raises:
        UsageError: there is no such provider.
    """
    if name not in PROVIDERS:
        raise UsageError(f"there is no provider {quoted(name)}; there are {', '.join(PROVIDERS)}")
    return (*cast("tuple[Option, ...]", _module(name).OPTIONS), *COMMON_OPTIONS)


def create(name: str, options: Mapping[str, object], report: Callable[[str], None] | None = None) -> Provider:
    """Create one of our own providers. Each of its operations leaves a line in the journal.

    Args:
        name: one of PROVIDERS.
        options: its options by name; each a string, or a list of strings where there may be several.
        report: takes these lines too.

    Raises:
        UsageError: there is no such provider, or an option is unknown, missing or of a wrong type.
        ProviderError: its library is not installed, or what it needs cannot be read.
    """
    known = {spelling: option for option in options_of(name) for spelling in (option.name, *option.also)}
    single: dict[str, str] = {}
    allowed: list[str] = []
    for spelling, value in options.items():
        option = known.get(spelling)
        if option is None:
            raise UsageError(f"the provider {name} has no option {quoted(spelling)}; it has {', '.join(sorted(known))}")
        if option.flag:
            if type(value) is not bool:
                raise UsageError(f"the option {spelling} of the provider {name} must be true or false")
            single[option.name] = "true" if value else ""
            continue
        values = value if isinstance(value, list) and option.many else [value]
        if not all(isinstance(item, str) for item in values):
            raise UsageError(f"the option {spelling} of the provider {name} must be a string")
        if option.name == "allow-key":
            allowed += cast("list[str]", values)
        else:
            single[option.name] = "\n".join(cast("list[str]", values))
    build = cast("Callable[[Mapping[str, str], KeyPolicy], Provider]", _module(name).create)
    policy = KeyPolicy(single.get("key", ""), allowed)
    from decoder.provider.audit import Audited

    return Audited(name, build(single, policy), report)


def _module(name: str) -> ModuleType:
    return import_module(f"decoder.provider.services.{name.replace('-', '_')}")
