"""Ways to wrap the private options of a layer, one module per scheme, and how one that opens is found."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, cast

from decoder import limits
from decoder.errors import Attempt, KeyProviderError, LayerError, NoKeyError, ProviderFailedError, WrappedKeyError
from decoder.formats import wire
from decoder.layer import annotations as layer

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from decoder.errors import Describable
    from decoder.keys.keyring import Keys

    Refused = Callable[[Describable, str], None]

    class KeyWrap(Protocol):
        """What the module of a scheme provides, both directions side by side."""

        def wrap(self, options: bytes, recipients: Sequence[bytes]) -> bytes:
            """Wrap private options so that the key of each recipient opens them."""

        def unwrap(self, wrapped: bytes, keys: Keys, refused: Refused) -> bytes | None:
            """Open private options with the first key that fits, and tell `refused` of each that does not.

            Raises:
                WrappedKeyError: no key can open it, because it is malformed or not of a kind that is accepted.
            """


# In the order in which they are tried, cheapest first; keyproviders come after them all.
SCHEMES = ("jwe", "pkcs7", "pgp", "pkcs11")
PROVIDER_PREFIX = "provider."
_GIVEN_UP = f"given up: no key opened the layer within {limits.UNWRAP_SECONDS:.0f} seconds"


def load(scheme: str) -> KeyWrap:
    """Import the module of a scheme, and with it the libraries that only this scheme needs."""
    if scheme.startswith(PROVIDER_PREFIX):
        module = import_module("decoder.keywrap.keyprovider")
        return cast("KeyWrap", module.KeyProvider(scheme.removeprefix(PROVIDER_PREFIX)))
    return cast("KeyWrap", import_module(f"decoder.keywrap.{scheme}"))


def unwrap_any(annotations: Mapping[str, str], keys: Keys, media_type: str = "") -> layer.PrivateOptions:
    """Open the private options of a layer with any key, whatever fails before, unless the layer is denied.

    Args:
        annotations: those of the layer's descriptor.
        keys: every key there is.
        media_type: of the layer, for the rules that deny it.

    Raises:
        DeniedError: a rule of the configuration denies it; no key was tried.
        LayerError: wrapped keys opened, but to malformed private options only.
        NoKeyError: none opened; it holds every attempt.
        KeyProviderError: none opened, and a configured keyprovider failed.
    """
    if keys.deny_config and os.path.isfile(keys.deny_config):
        from decoder.keywrap import deny  # most hosts have no such file, and pay nothing for it

        deny.check(keys.deny_config, media_type, annotations)
    attempts: list[Attempt] = []
    failure = NoKeyError
    malformed: LayerError | None = None
    deadline = time.monotonic() + limits.UNWRAP_SECONDS
    items = _in_order(layer.wrapped_keys(annotations))
    if not items:
        raise NoKeyError([], ["its descriptor holds no wrapped key"])
    for item in items:
        try:
            opened = _unwrap(item, keys, attempts, deadline)
        except WrappedKeyError as error:
            attempts.append(Attempt(item.annotation, item.number, None, str(error)))
            failure = KeyProviderError if isinstance(error, ProviderFailedError) else failure
            continue
        if opened is None:
            continue
        try:
            return layer.parse_private_options(opened)
        except ValueError as error:
            malformed = LayerError(f"{item.annotation}[{item.number}] opens to malformed private options: {error}")
    raise malformed or failure(attempts, keys.remarks + keys.warnings)


def _in_order(items: list[layer.WrappedKey]) -> list[layer.WrappedKey]:
    rank = {scheme: number for number, scheme in enumerate(SCHEMES)}
    return sorted(items, key=lambda item: rank.get(item.scheme, len(SCHEMES)))


def _unwrap(item: layer.WrappedKey, keys: Keys, attempts: list[Attempt], deadline: float) -> bytes | None:
    if item.scheme not in SCHEMES and not item.scheme.startswith(PROVIDER_PREFIX):
        raise WrappedKeyError("this scheme is not supported")
    if time.monotonic() > deadline:
        raise WrappedKeyError(_GIVEN_UP)
    try:
        wrapped = wire.decode_base64(item.text)
    except ValueError as error:
        raise WrappedKeyError(str(error)) from None

    def refused(key: Describable, reason: str) -> None:
        attempts.append(Attempt(item.annotation, item.number, key, reason))
        if time.monotonic() > deadline:
            raise WrappedKeyError(_GIVEN_UP)

    tried_before = len(attempts)
    opened = load(item.scheme).unwrap(wrapped, keys, refused)
    if opened is None and len(attempts) == tried_before:
        raise WrappedKeyError("there is no key of this kind to try")
    return opened
