"""Ways to wrap the private options of a layer, one room per scheme, and the search for a key that opens them.

A scheme has seven functions, the interface `Scheme`. To add one, write its room and add its line to SCHEMES.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, cast

from decoder import limits
from decoder.errors import (
    DEBUG_VARIABLE,
    Attempt,
    KeyProviderError,
    LayerError,
    NoKeyError,
    ProviderFailedError,
    WrappedKeyError,
)
from decoder.formats import wire
from decoder.keys.budget import Budget
from decoder.keywrap.unproven import Unproven, UnprovenError
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

        def suits(self, text: str, data: bytes) -> bool:
            """Check whether a recipient that was given without a scheme is for this one.

            Args:
                text: the recipient.
                data: the content of the file of that name; b"" if there is none.

            Raises:
                KeyFileError: it is for this scheme, but has to be given in another way.
            """

        def read_recipient(self, value: str, rules: RecipientRules) -> list[bytes]:
            """Read and check the value of `--recipient SCHEME:VALUE`.

            Args:
                value: a file, or another form that SCHEMES names.
                rules: which recipients to accept.

            Returns:
                The items for `wrap`: one for each of the recipient's keys.

            Raises:
                KeyFileError: the recipient cannot be read or found, or the rules do not accept it.
                WrappedKeyError: a library is not installed.
            """

        def wrap(self, options: bytes, recipients: Sequence[bytes]) -> bytes:
            """Wrap private options so that the key of each recipient opens them.

            Raises:
                KeyFileError: a recipient cannot be wrapped to.
                WrappedKeyError: a library is not installed.
            """

        def unwrap(self, wrapped: bytes, config: DecryptConfig, refused: Refused) -> bytes | Unproven | None:
            """Open private options with the first key that fits.

            Returns:
                The private options, or None if no key opens them; `refused` was called with each key and the reason.
                `Unproven` if only the layer's HMAC can tell whether they are the right ones.

            Raises:
                WrappedKeyError: the wrapped key is malformed or of a kind that is not accepted, or `config` allows no
                    more attempts.
            """

        def names_key(self, wrapped: bytes, config: DecryptConfig) -> bool:
            """Check whether the wrapped key names a key at hand, or a keyprovider's key that was opened before.

            Raises:
                ValueError: it is malformed.
                WrappedKeyError: it is malformed.
            """

        def recipients(self, wrapped: bytes, subjects: Mapping[bytes, str]) -> list[KeyName]:
            """Name the keys that a wrapped key is for, without opening it.

            Args:
                wrapped: the wrapped key.
                subjects: names of certificates, by their identifiers in CMS.

            Raises:
                ValueError: it is malformed.
                WrappedKeyError: it is malformed.
            """

        def keep(self, wrapped: bytes, numbers: Collection[int]) -> bytes:
            """Return the wrapped key with only some of its recipients.

            Args:
                wrapped: the wrapped key.
                numbers: the recipients to keep, by their position in the result of `recipients`.

            Raises:
                WrappedKeyError: its form cannot be written without the others.
            """


# Each scheme with the form of VALUE in `--recipient SCHEME:VALUE`. Wrapped keys are tried in this order, the cheapest
# scheme first. Keyproviders come last; each has a scheme of its own, `provider.NAME`.
SCHEMES = {"jwe": "FILE", "pkcs7": "FILE", "pgp": "EMAIL|KEYID|FINGERPRINT", "pkcs11": "FILE"}
REQUIRE_CONFIG = "require-config"
"""The name of a file beside the keyprovider configuration. If it exists, no layer opens without that configuration."""
_QUICK = ("jwe", "pkcs7", "pgp")
_UNPROVEN = "no key opened it, or it or the layer was changed; it has no integrity protection that could tell which"
PROVIDER = "provider"
PROVIDER_PREFIX = f"{PROVIDER}."


def is_supported(scheme: str) -> bool:
    """Check whether `load` has a room for a scheme."""
    return scheme in SCHEMES or scheme.startswith(PROVIDER_PREFIX)


def load(scheme: str) -> Scheme:
    """Import the room of a supported scheme, and with it the libraries that only this scheme needs."""
    if scheme.startswith(PROVIDER_PREFIX):
        module = import_module("decoder.keywrap.keyprovider")
        return cast("Scheme", module.KeyProvider(scheme.removeprefix(PROVIDER_PREFIX)))
    return cast("Scheme", import_module(f"decoder.keywrap.{scheme}"))


def scheme_for(text: str, data: bytes) -> str:
    """Return the scheme of a recipient that was given without one, or "" if none suits; see `Scheme.suits`.

    Raises:
        KeyFileError: it has to be given in another way.
    """
    # JWE comes last, because a file for another scheme may hold a public key, too.
    return next((scheme for scheme in reversed(SCHEMES) if load(scheme).suits(text, data)), "")


def new_budget(keyprovider_config: str = "") -> Budget:
    """Return the time and the attempts for one layer.

    Args:
        keyprovider_config: the file that configures keyproviders, or "". With keyproviders, the time is the longest
            limit of any of them plus UNWRAP_EXTRA_SECONDS; without them it is UNWRAP_SECONDS.
    """

    def longest_seconds() -> float:
        if not keyprovider_config:
            return 0.0
        from decoder.keywrap import keyprovider

        return keyprovider.longest_seconds(keyprovider_config)

    return Budget(longest_seconds)


def unwrap_any(annotations: Mapping[str, str], config: DecryptConfig, media_type: str = "") -> PrivateOptions:
    """Open the private options of a layer with the first key that fits, unless the layer is denied.

    A wrapped key or a key that fails does not end the search.

    Args:
        annotations: the annotations in the layer's descriptor.
        config: all keys and keyproviders.
        media_type: the layer's media type, for deny rules.

    Raises:
        DeniedError: a rule of the configuration denies the layer; no key was tried.
        LayerError: wrapped keys opened, but only to malformed private options.
        UnprovenError: only the layer's HMAC can tell whether a key opened the layer; the error holds the candidates.
        NoKeyError: no wrapped key opened; the error lists every attempt.
        KeyProviderError: no wrapped key opened, and a configured keyprovider failed.
    """
    search = KeySearch(annotations, config, media_type)
    if options := search.try_likely() or search.try_rest():
        return options
    raise UnprovenError(search.error(), search.unproven) if search.unproven else search.error()


class KeySearch:
    """The wrapped keys of one descriptor, tried in two rounds, so that other descriptors get a turn in between.

    Args:
        annotations: the annotations in the layer's descriptor.
        config: all keys and keyproviders. Without a budget for the layer, a new one is used.
        media_type: the layer's media type, for deny rules.
        is_only: whether this is the only descriptor that may be the layer's.

    Attributes:
        unproven: results of unwrapping without integrity protection, at most UNPROVEN_KEYS. Neither errors nor the
            order of attempts depend on whether these results are well-formed private options.

    Raises:
        DeniedError: a rule of the configuration denies the layer; no key was tried.
        LayerError: there are more than WRAPPED_KEYS.
        NoKeyError: there are no wrapped keys.
    """

    def __init__(
        self, annotations: Mapping[str, str], config: DecryptConfig, media_type: str = "", is_only: bool = True
    ) -> None:
        if config.deny_config and (config.is_config_required or _may_deny(config.deny_config)):
            from decoder.keywrap import deny  # imported here, because most hosts have no such file

            deny.check(config.deny_config, media_type, annotations)
        self.unproven: list[Unproven] = []
        self._budget = config.budget or new_budget(config.keyprovider_config)
        self._config = config._replace(budget=self._budget)
        self._items = _in_order(wrapped_keys(annotations))
        if not self._items:
            raise NoKeyError([], [], ["its descriptor holds no wrapped key"])
        self._waiting = list(self._items)
        self._is_only = is_only
        self._attempts: list[Attempt] = []
        self._failure = NoKeyError
        self._malformed: LayerError | None = None

    def try_likely(self) -> PrivateOptions | None:
        """Try wrapped keys that name a key at hand or one opened before, then those for key files; nothing slower.

        About UNWRAP_FIRST_ATTEMPTS attempts are made at most.
        """
        if len(self._items) == 1 and (self._is_only or self._items[0].scheme in _QUICK):
            return self._try(self._items)  # nothing has to be put in order
        named = [item for item in self._items if self._is_named(item)]
        quick = [item for item in self._items if item.scheme in _QUICK and item not in named]
        return self._try([*named, *quick], limits.UNWRAP_FIRST_ATTEMPTS)

    def try_rest(self) -> PrivateOptions | None:
        """Try the wrapped keys that the first round did not."""
        return self._try(list(self._waiting))

    def error(self) -> NoKeyError | LayerError:
        """Return the error that no wrapped key opened, with every attempt."""
        if self._malformed:
            return self._malformed
        from decoder.keywrap.advice import advice

        return self._failure(
            self._attempts, self._config.keyring.notes.warnings, advice(self._items, self._config.keyring)
        )

    def _try(self, items: Sequence[WrappedKey], attempts: int = limits.UNWRAP_ATTEMPTS) -> PrivateOptions | None:
        most = self._budget.spent + attempts
        for item in items:
            if self._budget.spent >= most:
                return None
            self._waiting.remove(item)
            if options := self._try_one(item):
                return options
        return None

    def _try_one(self, item: WrappedKey) -> PrivateOptions | None:
        try:
            opened = self._unwrap(item)
        except WrappedKeyError as error:
            self._attempts.append(Attempt(item.annotation, item.number, None, str(error), _trace()))
            self._failure = KeyProviderError if isinstance(error, ProviderFailedError) else self._failure
            return None
        if isinstance(opened, Unproven):
            # The line is the same whether a key opened it or not: see `unproven`.
            self._attempts.append(Attempt(item.annotation, item.number, None, _UNPROVEN))
            self.unproven += [opened] if len(self.unproven) < limits.UNPROVEN_KEYS else []
            return None
        if opened is None:
            return None
        try:
            return parse_private_options(opened)
        except ValueError as error:
            text = f"{item.annotation}[{item.number}] opens to malformed private options: {error}"
            self._malformed = LayerError(text)
            return None

    def _unwrap(self, item: WrappedKey) -> bytes | Unproven | None:
        if not is_supported(item.scheme):
            raise WrappedKeyError("this scheme is not supported")
        self._budget.check()
        try:
            wrapped = wire.decode_base64(item.text)
        except ValueError as error:
            raise WrappedKeyError(str(error)) from error

        def refused(key: Describable, reason: str) -> None:
            self._attempts.append(Attempt(item.annotation, item.number, key, reason, _trace()))
            self._budget.spend()

        tried_before = len(self._attempts)
        opened = load(item.scheme).unwrap(wrapped, self._config, refused)
        if opened is None and len(self._attempts) == tried_before:
            raise WrappedKeyError("there is no key of this kind to try")
        return opened

    def _is_named(self, item: WrappedKey) -> bool:
        try:
            return is_supported(item.scheme) and load(item.scheme).names_key(
                wire.decode_base64(item.text), self._config
            )
        except (ValueError, WrappedKeyError):
            return False  # trying it reports the reason


def _trace() -> str:
    """Return where the exception that is being handled was raised, if the operator asks for that."""
    if os.environ.get(DEBUG_VARIABLE) != "1" or (error := sys.exception()) is None:
        return ""
    from decoder import failure

    return failure.traceback(error)


def _may_deny(config_file: str) -> bool:
    """Check whether deny rules must be read; False only if the file and REQUIRE_CONFIG beside it are both absent."""
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
