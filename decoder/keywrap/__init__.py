"""Ways to wrap the private options of a layer, one room per scheme, and the search for a key that opens them.

A scheme has six functions, the interface `Scheme`. To add one, write its room and add its line to SCHEMES.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, cast

from decoder import limits
from decoder.errors import Attempt, KeyProviderError, LayerError, NoKeyError, ProviderFailedError, WrappedKeyError
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

        def unwrap(self, wrapped: bytes, config: DecryptConfig, refused: Refused) -> bytes | Unproven | None:
            """Open private options with the first key that fits.

            Returns:
                The private options, or None if none of these keys opens them; `refused` was told why, key by key.
                `Unproven` if nothing but the layer's HMAC can tell whether they are the right ones.

            Raises:
                WrappedKeyError: no key can open it, because it is malformed or not of a kind that is accepted, or
                    `config` does not allow more attempts.
            """

        def names_key(self, wrapped: bytes, config: DecryptConfig) -> bool:
            """Check whether it names a key that is there, or one of a keyprovider that was opened before.

            Raises:
                ValueError: it is malformed.
                WrappedKeyError: likewise.
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
_QUICK = ("jwe", "pkcs7", "pgp")
_UNPROVEN = "no key opened it, or it or the layer was changed; it has no integrity protection that would tell"
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


def new_budget(keyprovider_config: str = "") -> Budget:
    """Return what may be spent on one layer.

    Args:
        keyprovider_config: the file that configures keyproviders, or "". The slowest of them gets its whole time, and
            UNWRAP_EXTRA_SECONDS are for the rest; without keyproviders there are UNWRAP_SECONDS.
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
        annotations: those of the layer's descriptor.
        config: all keys and keyproviders.
        media_type: of the layer, for the rules that deny it.

    Raises:
        DeniedError: a rule of the configuration denies it; no key was tried.
        LayerError: wrapped keys opened, but to malformed private options only.
        UnprovenError: none opened but those that only the layer's HMAC can prove, which the error holds.
        NoKeyError: none opened; it holds every attempt.
        KeyProviderError: none opened, and a configured keyprovider failed.
    """
    search = KeySearch(annotations, config, media_type)
    if options := search.try_likely() or search.try_rest():
        return options
    raise UnprovenError(search.error(), search.unproven) if search.unproven else search.error()


class KeySearch:
    """The wrapped keys of one descriptor, tried in two rounds, so that other descriptors have their turn in between.

    Args:
        annotations: those of the layer's descriptor.
        config: all keys and keyproviders; its budget is for the layer, and a new one if there is none.
        media_type: of the layer, for the rules that deny it.
        is_only: whether no other descriptor may be the layer's.

    Attributes:
        unproven: what was unwrapped without integrity protection, at most UNPROVEN_KEYS. Neither the errors nor the
            order of attempts depend on whether that are well-formed private options.

    Raises:
        DeniedError: a rule of the configuration denies it; no key was tried.
        LayerError: it has too many wrapped keys.
        NoKeyError: it has none.
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
        """Try what names a key that is there or was opened before, then keys on this machine; no other keyprovider.

        At most about UNWRAP_FIRST_ATTEMPTS are made.
        """
        if len(self._items) == 1 and (self._is_only or self._items[0].scheme in _QUICK):
            return self._try(self._items)  # nothing has to be put in order
        named = [item for item in self._items if self._is_named(item)]
        quick = [item for item in self._items if item.scheme in _QUICK and item not in named]
        return self._try([*named, *quick], limits.UNWRAP_FIRST_ATTEMPTS)

    def try_rest(self) -> PrivateOptions | None:
        """Try what the first round has left."""
        return self._try(list(self._waiting))

    def error(self) -> NoKeyError | LayerError:
        """Return why no wrapped key opened, with every attempt."""
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
            self._attempts.append(Attempt(item.annotation, item.number, None, str(error)))
            self._failure = KeyProviderError if isinstance(error, ProviderFailedError) else self._failure
            return None
        if isinstance(opened, Unproven):
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
            self._attempts.append(Attempt(item.annotation, item.number, key, reason))
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
            return False  # its attempt says why


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
