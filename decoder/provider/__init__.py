"""Keyproviders: key services that wrap and unwrap private options (ocicrypt's keyprovider protocol).

`services` has one module for each name in PROVIDERS (with `_` instead of `-`). The module has OPTIONS, the options that
it understands, and a function `create(options, policy)`, which imports the service's SDK and returns a KeyService.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast, runtime_checkable

from decoder.errors import UsageError, quoted
from decoder.node.filestate import state_of
from decoder.provider.policy import KeyPolicy

if TYPE_CHECKING:
    from decoder.provider.audit import Observer, Provider
    from decoder.provider.keks import Keks

PROVIDERS = ("gcpkms", "awskms", "azurekv", "openbao", "local", "pkcs11", "grants", "attestation-agent")


class Option(NamedTuple):
    """An option of a provider: `--NAME VALUE` on the command line, `"NAME": VALUE` in the configuration file.

    Attributes:
        name: the name, in lower case with dashes.
        help: a few words for --help.
        many: whether it may be given several times (a list in the configuration file). `create` gets the values joined
            by line feeds.
        also: other names that existing configuration files use.
        serving: the default in a server, which answers requests of other hosts.
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
    Option("allow-key", "shell pattern of keys that images may use (default: only the configured key)", many=True),
)


class Use(NamedTuple):
    """A request that has passed every check that needs no key service.

    Attributes:
        keys: the canonical names of the keys that it uses; if the annotation names none, those that it may use.
        run: performs the request within a number of seconds, and returns the result; it raises ProviderError.
        waits: whether it waits for a network or a device. If not, it takes well under a millisecond.
        check: checks private options that the key-encryption key has opened, within a number of seconds; it raises
            ProviderError if they must not be released. None if having the key is enough.
    """

    keys: tuple[str, ...]
    run: Callable[[float], bytes]
    waits: bool = True
    check: Callable[[bytes, float], None] | None = None


class Checked(NamedTuple):
    """The result of checking a service's keys, files and sources, without opening anything with them.

    Attributes:
        works: a few words about each key, file or source that can be used.
        problems: a message about each that cannot be used.
    """

    works: list[str]
    problems: list[str]


@runtime_checkable
class CheckableService(Protocol):
    """A KeyService that can check its keys, files and sources without using a key."""

    def check(self, seconds: float) -> Checked:
        """Check every configured key, file and source, for at most `seconds` each."""


@runtime_checkable
class ReachableService(Protocol):
    """A KeyService behind a network."""

    def reach(self, seconds: float) -> None:
        """Check that the service answers, without using a key.

        Args:
            seconds: how long it may take.

        Raises:
            ProviderError: the service does not answer in time.
        """


class KeyService(Protocol):
    """A key service, as the `create` of its module returns it."""

    def wrap(self, options: bytes, parameters: Sequence[str]) -> Use:
        """Prepare to wrap private options.

        Args:
            options: the private options, at most PRIVATE_OPTIONS_BYTES.
            parameters: the key to use, the part after `provider:NAME:`; none, or `Enabled`, if it is not named.

        Returns:
            The request, whose result is the annotation that `unwrap` reads, before base64.

        Raises:
            ProviderError: there is no such key.
            KeyRefusedError: the key may not be used.
        """

    def unwrap(self, annotation: bytes, parameters: Sequence[str]) -> Use:
        """Prepare to unwrap private options.

        Args:
            annotation: the result of `wrap`; it comes from a registry and is untrusted.
            parameters: the keys that the caller allows; none if the configuration decides.

        Raises:
            ProviderError: the annotation is malformed.
            KeyRefusedError: the key may not be used.
        """


def options_of(name: str) -> tuple[Option, ...]:
    """Return the options that a provider understands.

    Raises:
        UsageError: there is no such provider.
    """
    if name not in PROVIDERS:
        raise UsageError(f"there is no provider {quoted(name)}; the providers are {', '.join(PROVIDERS)}")
    return (*cast("tuple[Option, ...]", _module(name).OPTIONS), *COMMON_OPTIONS)


def create(
    name: str,
    options: Mapping[str, object],
    report: Callable[[str], None] | None = None,
    keks: Keks | None = None,
    observe: Observer | None = None,
) -> Provider:
    """Create one of our own providers. Each of its operations leaves a line in the journal.

    Args:
        name: one of PROVIDERS.
        options: its options by name; each a string, a list of strings if several are allowed, or a bool for a flag.
        report: writes each line to standard error, too, unless that is the journal.
        keks: keeps key-encryption keys that the provider has opened; by default none is kept.
        observe: is called after each call of the key service; see `Provider`.

    Raises:
        UsageError: there is no such provider, or an option is unknown, missing or of a wrong type.
        ProviderError: its library is not installed, or a file that it needs cannot be read.
    """
    from decoder.provider.audit import Provider

    single, allowed = _checked(name, options)
    build = cast("Callable[[Mapping[str, str], KeyPolicy], KeyService]", _module(name).create)
    service = build(single, KeyPolicy(single.get("key", ""), allowed))
    return Provider(name, service, report, keks, lambda: identity(name, options), observe)


def identity(name: str, options: Mapping[str, object]) -> bytes:
    """Return a value that changes with the configuration of a provider and with the files that its options name."""
    values = [item for value in options.values() for item in (value if isinstance(value, list) else [value])]
    paths = [path for value in values if isinstance(value, str) for path in (value, value.rpartition("=")[2])]
    files = [state_of(path) for path in paths if os.path.isabs(path)]
    return json.dumps([name, options, files], sort_keys=True, default=str).encode()


def _checked(name: str, options: Mapping[str, object]) -> tuple[dict[str, str], list[str]]:
    """Check names and types of options; return those of the service, and the values of allow-key."""
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
            raise UsageError(f"the option {spelling} of the provider {name} must be a string: {option.help}")
        if option.name == "allow-key":
            allowed += cast("list[str]", values)
        else:
            single[option.name] = "\n".join(cast("list[str]", values))
    return single, allowed


def _module(name: str) -> ModuleType:
    return import_module(f"decoder.provider.services.{name.replace('-', '_')}")
