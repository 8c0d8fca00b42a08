"""Keyproviders: key services that wrap and unwrap private options (ocicrypt's keyprovider protocol).

One module per key service, each with a function `create(options)`; its SDK is imported when it is created.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Protocol, cast

from decoder.errors import UsageError, quoted

PROVIDERS = ("gcpkms", "awskms", "azurekv", "openbao", "local", "pkcs11")


class ProviderError(Exception):
    """A key service did not do what it was asked; the text says why, and holds no secret."""


class Provider(Protocol):
    """What every key service can do."""

    def wrap(self, options: bytes, parameters: Sequence[str]) -> bytes:
        """Wrap private options.

        Args:
            options: the private options, at most PRIVATE_OPTIONS_BYTES.
            parameters: which keys to use: what follows `provider:NAME:`, or none.

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


def create(name: str, options: Mapping[str, object]) -> Provider:
    """Create one of our own providers.

    Args:
        name: one of PROVIDERS.
        options: its settings, as in the configuration file beside `native` or on the command line.

    Raises:
        UsageError: there is no such provider, or an option is unknown, missing or malformed.
        ProviderError: its library is not installed, or what it needs cannot be read.
    """
    if name not in PROVIDERS:
        raise UsageError(f"there is no provider {quoted(name)}; there are {', '.join(PROVIDERS)}")
    module = import_module(f"decoder.provider.{name}")
    return cast("Callable[[Mapping[str, object]], Provider]", module.create)(options)
