"""Ways to wrap the private options of a layer, one room per scheme, and the search for a key that opens them.

A scheme has five functions, the interface `Scheme`. To add one, write its room and add its line to SCHEMES.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, cast

from decoder import limits
from decoder.errors import Attempt, KeyProviderError, LayerError, NoKeyError, ProviderFailedError, WrappedKeyError
from decoder.formats import wire
from decoder.layer.annotations import PrivateOptions, WrappedKey, parse_private_options, wrapped_keys

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from decoder.errors import Describable
    from decoder.keys.keyring import DecryptConfig
    from decoder.keywrap.recipient import KeyName, RecipientRules

    Refused = Callable[[Describable, str], None]

    class Scheme(Protocol):
        """What the room of a scheme provides."""

        def read_recipient(self, value: str, rules: RecipientRules) -> list[bytes]:
            """Read and check what follows `--recipient SCHEME:`.

            Args:
                value: a file, or what else SCHEMES says.
                rules: what to accept.

            Returns:
                What `wrap` takes for this recipient: one item for each key.

            Raises:
                KeyFileError: it cannot be read or found, or the rules do not accept it.
                WrappedKeyError: a library is not installed.
            """

        def wrap(self, options: bytes, recipients: Sequence[bytes]) -> bytes:
            """Wrap private options so that the key of each recipient opens them.

            Raises:
                KeyFileError: a recipient cannot be wrapped to.
                WrappedKeyError: a library is not installed.
            """

        def unwrap(self, wrapped: bytes, config: DecryptConfig, refused: Refused) -> bytes | None:
            """Open private options with the first key that fits.

            Returns:
                The private options, or None if none of these keys opens them; `refused` was told why, key by key.

            Raises:
                WrappedKeyError: no key can open it, because it is malformed or not of a kind that is accepted.
            """

        def recipients(self, wrapped: bytes, subjects: Mapping[bytes, str]) -> list[KeyName]:
            """Name the keys that a wrapped key is for, without opening it.

            Args:
                wrapped: the wrapped key.
                subjects: names of certificates, by their identifiers in CMS.

            Raises:
                ValueError: it is malformed.
                WrappedKeyError: likewise.
            """

        def keep(self, wrapped: bytes, numbers: Collection[int]) -> bytes:
            """Return the wrapped key without the recipients outside `numbers`, which count as `recipients` does.

            Raises:
                WrappedKeyError: it is of a form that cannot be written without them.
            """


# Each scheme with what follows it in `--recipient SCHEME:VALUE`, in the order in which wrapped keys are tried: cheapest
# first. Keyproviders, which have a scheme `provider.NAME` each, come after them all.
SCHEMES = {"jwe": "FILE", "pkcs7": "FILE", "pgp": "EMAIL|KEYID|FINGERPRINT", "pkcs11": "FILE"}
REQUIRE_CONFIG = "require-config"
"""If a file of this name is beside the configuration of keyproviders, no layer is opened without that configuration."""
PROVIDER = "provider"
PROVIDER_PREFIX = f"{PROVIDER}."


class Budget:
    """The time and the attempts that remain to open one layer, for all of its descriptors and wrapped keys.

    Args:
        keyprovider_config: the file that configures keyproviders, or "". The slowest of them gets its whole time, and
            UNWRAP_EXTRA_SECONDS are for the rest.
    """

    def __init__(self, keyprovider_config: str = "") -> None:
        self._started = time.monotonic()
        self._seconds = limits.UNWRAP_SECONDS
        self._keyprovider_config = keyprovider_config
        self._attempts = limits.UNWRAP_ATTEMPTS

    def check(self) -> None:
        """Check that something is left.

        Raises:
            WrappedKeyError: the layer is given up.
        """
        if self._is_over() and (not self._lengthen() or self._is_over()):
            raise WrappedKeyError(f"given up: no key opened the layer within {self._seconds:.0f} seconds")
        if self._attempts <= 0:
            raise WrappedKeyError(f"given up: no key opened the layer in {limits.UNWRAP_ATTEMPTS} attempts")

    def spend(self) -> None:
        """Count one attempt, and check that attempts and time are left."""
        self._attempts -= 1
        self.check()

    def _is_over(self) -> bool:
        return time.monotonic() > self._started + self._seconds

    def _lengthen(self) -> bool:
        """Extend the time limit to those of the keyproviders, which are read only once something is slow."""
        if not self._keyprovider_config:
            return False
        from decoder.keywrap.keyprovider import longest_seconds

        slowest = longest_seconds(self._keyprovider_config)
        self._keyprovider_config = ""
        self._seconds = max(self._seconds, slowest + limits.UNWRAP_EXTRA_SECONDS)
        return True


def is_supported(scheme: str) -> bool:
    """Check whether `load` has a room for a scheme."""
    return scheme in SCHEMES or scheme.startswith(PROVIDER_PREFIX)


def load(scheme: str) -> Scheme:
    """Import the room of a supported scheme, and with it the libraries that only this scheme needs."""
    if scheme.startswith(PROVIDER_PREFIX):
        module = import_module("decoder.keywrap.keyprovider")
        return cast("Scheme", module.KeyProvider(scheme.removeprefix(PROVIDER_PREFIX)))
    return cast("Scheme", import_module(f"decoder.keywrap.{scheme}"))


def unwrap_any(
    annotations: Mapping[str, str], config: DecryptConfig, media_type: str = "", budget: Budget | None = None
) -> PrivateOptions:
    """Open the private options of a layer with the first key that fits, unless the layer is denied.

    A wrapped key or a key that fails does not end the search.

    Args:
        annotations: those of the layer's descriptor.
        config: all keys and keyproviders.
        media_type: of the layer, for the rules that deny it.
        budget: what is left for the layer, if other descriptors of it were tried before.

    Raises:
        DeniedError: a rule of the configuration denies it; no key was tried.
        LayerError: wrapped keys opened, but to malformed private options only.
        NoKeyError: none opened; it holds every attempt.
        KeyProviderError: none opened, and a configured keyprovider failed.
    """
    if config.deny_config and (config.is_config_required or _may_deny(config.deny_config)):
        from decoder.keywrap import deny  # imported here, because most hosts have no such file

        deny.check(config.deny_config, media_type, annotations)
    attempts: list[Attempt] = []
    failure = NoKeyError
    malformed: LayerError | None = None
    budget = budget or Budget(config.keyprovider_config)
    items = _in_order(wrapped_keys(annotations))
    if not items:
        raise NoKeyError([], [], ["its descriptor holds no wrapped key"])
    for item in items:
        try:
            opened = _unwrap(item, config, attempts, budget)
        except WrappedKeyError as error:
            attempts.append(Attempt(item.annotation, item.number, None, str(error)))
            failure = KeyProviderError if isinstance(error, ProviderFailedError) else failure
            continue
        if opened is None:
            continue
        try:
            return parse_private_options(opened)
        except ValueError as error:
            malformed = LayerError(f"{item.annotation}[{item.number}] opens to malformed private options: {error}")
    if malformed:
        raise malformed
    from decoder.keywrap.advice import advice

    raise failure(attempts, config.keyring.notes.warnings, advice(items, config.keyring))


def _may_deny(config_file: str) -> bool:
    """Return false only if the file is absent and REQUIRE_CONFIG, beside it, does not require it."""
    for path in (config_file, os.path.join(os.path.dirname(config_file), REQUIRE_CONFIG)):
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            pass  # something is there that cannot be examined
        return True
    return False


def _in_order(items: list[WrappedKey]) -> list[WrappedKey]:
    rank = {scheme: number for number, scheme in enumerate(SCHEMES)}
    return sorted(items, key=lambda item: rank.get(item.scheme, len(SCHEMES)))


def _unwrap(item: WrappedKey, config: DecryptConfig, attempts: list[Attempt], budget: Budget) -> bytes | None:
    if not is_supported(item.scheme):
        raise WrappedKeyError("this scheme is not supported")
    budget.check()
    try:
        wrapped = wire.decode_base64(item.text)
    except ValueError as error:
        raise WrappedKeyError(str(error)) from error

    def refused(key: Describable, reason: str) -> None:
        attempts.append(Attempt(item.annotation, item.number, key, reason))
        budget.spend()

    tried_before = len(attempts)
    opened = load(item.scheme).unwrap(wrapped, config, refused)
    if opened is None and len(attempts) == tried_before:
        raise WrappedKeyError("there is no key of this kind to try")
    return opened
