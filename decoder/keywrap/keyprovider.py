"""Keyproviders as a scheme: a command or a service wraps and unwraps private options.

A provider gets only its own parameters: no private key of the payload or the node, and no parameter of another
provider.
"""

from __future__ import annotations

import os
from _thread import allocate_lock  # threading is built on it, and a cold start would pay for importing it
from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from decoder import limits
from decoder.errors import KeyFileError, ProviderFailedError, WrappedKeyError, quoted
from decoder.formats import wire
from decoder.keys.file import read_key_file
from decoder.keys.keyring import Notes
from decoder.keys.subject import Subject
from decoder.keywrap.asking import NO_PARAMETER, ask
from decoder.keywrap.recipient import KeyName, is_whole, shown
from decoder.keywrap.unproven import Unproven
from decoder.layer.annotations import parse_private_options
from decoder.node.journal import waiting
from decoder.provider import envelope
from decoder.provider.client.config import (
    Configured,
    GrpcProvider,
    NativeProvider,
    parse_config,
)
from decoder.provider.errors import NoKekServiceError, ProviderError

if TYPE_CHECKING:
    from decoder.keys.keyring import DecryptConfig
    from decoder.keywrap import Refused
    from decoder.keywrap.recipient import RecipientRules

CONFIG_VARIABLE = "OCICRYPT_KEYPROVIDER_CONFIG"
# Our own providers that wrap without an entry in the configuration, because their parameter has everything they need.
_WITHOUT_ENTRY = ("attestation-agent",)
# Prefixes of the payload's parameters that hold keys. A provider with such a name does not get them.
_KEY_PARAMETERS = ("privkeys", "x509s", "gpg-", "pkcs11-")


# How packets of Confidential Containers name A256CTR.
_UNPROVEN_TYPES = ("A256CTR", "aes_256_ctr")
# The members by which the JSON of most keyproviders names a key.
_NAME_MEMBERS = ("key_url", "kid", "key_id", "keyid", "kbs_uri")


class KeyProvider:
    """One keyprovider, by the name that annotations give it.

    Args:
        name: the part of the annotation's name after `provider.`.
        config_file: the keyprovider configuration for wrapping; by default the file that $OCICRYPT_KEYPROVIDER_CONFIG
            names.
        own: options of our own provider of this name, which then wraps instead of the configured one.
        packet_format: `new`: the provider wraps one key-encryption key for everything that this object wraps; `old`:
            it wraps each layer's options; "": the format that suits the provider.
        image: the reference of the image whose layers are wrapped, for the audit of keyprovider servers; "" for none.
    """

    def __init__(
        self,
        name: str,
        config_file: str = "",
        own: Mapping[str, object] | None = None,
        packet_format: str = "",
        image: str = "",
    ) -> None:
        self._subject = Subject(image)
        self._packet_format = packet_format
        self._lock = allocate_lock()  # layers are encrypted by several threads
        self._keks: dict[tuple[object, ...], tuple[bytes, envelope.Envelope] | None] = {}
        self._name = name
        self._config_file = config_file
        self._own = own
        self._notes = Notes()

    @property
    def warnings(self) -> list[str]:
        """Problems with the configuration and with the providers, as far as `wrap` has met them."""
        return self._notes.warnings

    def unwrap(self, wrapped: bytes, config: DecryptConfig, refused: Refused) -> bytes | Unproven:
        """Unwrap with the first configured provider that can: the one of this name, then those with this alias.

        Args:
            wrapped: the result of the provider's `wrap`, at most PROVIDER_ANNOTATION_BYTES.
            config: `keyprovider_config` names the configuration, `parameters` holds the provider's parameters.
            refused: not called; every failure is in the exception.

        Raises:
            WrappedKeyError: it is too long, or no provider is configured for it.
            ProviderFailedError: the configuration cannot be read, or every provider that is configured failed.
        """
        if len(wrapped) > limits.PROVIDER_ANNOTATION_BYTES:
            raise WrappedKeyError(f"it is longer than {limits.PROVIDER_ANNOTATION_BYTES} bytes")
        is_unproven = _is_unproven(wrapped)

        def unwrap_with(provider: Configured) -> bytes:
            parameters = self._parameters(provider, config)
            provider = provider._replace(seconds=config.seconds(provider.seconds))
            if isinstance(provider.transport, GrpcProvider):
                provider = provider._replace(subject=config.subject())
            with waiting.noted(f"the keyprovider {quoted(provider.name)} ({provider.transport.describe()})"):
                kept = config.keyring.kept.ask(provider, "keyunwrap", wrapped, parameters)
                opened = ask(provider, "keyunwrap", wrapped, parameters) if kept is None else kept
            return opened if is_unproven else _checked_options(opened)

        notes = config.keyring.notes
        opened = _first_answer(self._configured(config.keyprovider_config, notes), notes, unwrap_with)
        return Unproven(opened) if is_unproven else opened

    def names_key(self, wrapped: bytes, config: DecryptConfig) -> bool:
        """Check whether a provider is configured for the named key, or has opened it before; see `keywrap.Scheme`."""
        named = {name.text for name in self.recipients(wrapped, {}) if name.is_unique}
        for provider in self._configured(config.keyprovider_config, Notes()):
            if _is_for(provider, named):
                return True
            if config.keyring.kept.has_opened(provider, wrapped, self._parameters(provider, config)):
                return True
        return False

    def wrap(self, options: bytes, recipients: Sequence[bytes]) -> bytes:
        """Wrap with the first configured provider that can; attestation-agent needs no entry in the configuration.

        Args:
            options: the private options.
            recipients: the parameters for the provider: the part after `provider:NAME:`, or none.

        Raises:
            WrappedKeyError: no provider is configured for the name.
            ProviderFailedError: the configuration cannot be read, or every provider that is configured failed.
        """
        parameters = list(recipients) or [NO_PARAMETER]
        providers = [provider._replace(subject=self._subject) for provider in self._to_wrap()]
        return _first_answer(providers, self._notes, lambda provider: self._wrap_with(provider, options, parameters))

    def _wrap_with(self, provider: Configured, options: bytes, parameters: list[bytes]) -> bytes:
        """Wrap with the key-encryption key for this provider and parameters, if the provider wraps such keys."""
        place = (provider.name, *parameters)
        with self._lock:
            if place not in self._keks:
                self._keks[place] = _new_kek(provider, parameters, self._packet_format)
            found = self._keks[place]
        if found is None:
            return ask(provider, "keywrap", options, parameters)
        kek, letter = found
        return envelope.seal(kek, letter.provider, letter.wrapped_kek, options)

    def read_recipient(self, value: str, rules: RecipientRules) -> list[bytes]:
        """Return the parameter for the provider; see `keywrap.Scheme`."""
        return [value.encode()]

    def recipients(self, wrapped: bytes, subjects: Mapping[bytes, str]) -> list[KeyName]:
        """Name the one recipient by the key that the provider's JSON names, if it does; see `keywrap.Scheme`."""
        try:
            value = wire.parse_object(wrapped)
        except ValueError:
            value = {}
        for member in _NAME_MEMBERS:
            if isinstance(value.get(member), str) and value[member]:
                text = shown(value[member])
                return [KeyName(text, is_whole(text))]
        return [KeyName(f"{len(wrapped)} bytes", is_unique=False)]

    def keep(self, wrapped: bytes, numbers: Collection[int]) -> bytes:
        """Keep the one recipient; see `keywrap.Scheme`."""
        return wrapped

    def _to_wrap(self) -> list[Configured]:
        if self._own is not None:
            return [Configured(self._name, NativeProvider(self._name, dict(self._own)))]
        try:
            return self._configured(self._config_file or os.environ.get(CONFIG_VARIABLE, ""), self._notes)
        except ProviderFailedError:
            raise
        except WrappedKeyError:
            is_misnamed = self._config_file and not os.path.exists(self._config_file)
            if is_misnamed or self._name not in _WITHOUT_ENTRY:
                raise
            return [Configured(self._name, NativeProvider(self._name, {}))]

    def _configured(self, config_file: str, notes: Notes) -> list[Configured]:
        """Return the configured providers with this name or alias."""
        missing = f"no keyprovider {quoted(self._name)} is configured"
        if not config_file:
            raise WrappedKeyError(f"{missing}: no configuration file is named ({CONFIG_VARIABLE})")
        if not os.path.exists(config_file):
            raise WrappedKeyError(f"{missing}: there is no file {quoted(config_file)}")
        try:
            found = parse_config(read_key_file(config_file))
        except (ProviderError, KeyFileError) as error:
            raise ProviderFailedError(f"the keyprovider configuration {quoted(config_file)}: {error}") from error
        for text in found.warnings:
            notes.warn(f"the keyprovider configuration {quoted(config_file)}: {text}")
        if providers := found.answering(self._name):
            return providers
        names = quoted(", ".join(provider.name for provider in found.providers)) if found.providers else "none"
        raise WrappedKeyError(f"{missing} in {quoted(config_file)}, which has {names} (an alias can join the names)")

    def _parameters(self, provider: Configured, config: DecryptConfig) -> list[bytes]:
        """Choose the provider's own parameters; for an alias, those under the annotation's name."""
        for name in (provider.name, self._name):
            if not name.startswith(_KEY_PARAMETERS) and name in config.parameters:
                return list(config.parameters[name])
        return []


def longest_seconds(config_file: str) -> float:
    """Return the longest time limit of the configured keyproviders, in seconds; 0 if there are none."""
    try:
        found = parse_config(read_key_file(config_file))
    except (ProviderError, KeyFileError):
        return 0.0
    return max((provider.seconds for provider in found.providers), default=0.0)


def _is_for(provider: Configured, names: set[str]) -> bool:
    """Check whether the entry of one of our own providers names or allows one of these keys.

    This only decides what is tried first; the provider itself checks which keys it may use.
    """
    if not isinstance(provider.transport, NativeProvider):
        return False
    named = [provider.transport.options.get(name) for name in ("key", "allow-key")]
    texts = [text for value in named for text in (value if isinstance(value, list) else [value])]
    return any(
        fnmatchcase(name, text) or name.endswith(f"/{os.path.basename(text)}")  # a file may hold the key of its name
        for name in names
        for text in texts
        if isinstance(text, str)
    )


def _is_unproven(wrapped: bytes) -> bool:
    """Check whether a wrapped key is a packet with A256CTR, which has no integrity protection."""
    if b"ctr" not in wrapped.lower():
        return False
    try:
        return wire.parse_object(wrapped).get("wrap_type") in _UNPROVEN_TYPES
    except ValueError:
        return False


def _first_answer(providers: list[Configured], notes: Notes, work: Callable[[Configured], bytes]) -> bytes:
    """Return the answer of the first provider that succeeds; add a warning for each that failed before."""
    failures = []
    last: ProviderError | None = None
    for provider in providers:
        try:
            answer = work(provider)
        except ProviderError as error:
            last = error
            failures.append(f"the keyprovider {quoted(provider.name)} ({provider.transport.describe()}): {error}")
        else:
            for failure in failures:
                notes.warn(failure)
            return answer
    raise ProviderFailedError("; ".join(failures)) from last


def _checked_options(opened: bytes) -> bytes:
    """Return a provider's result if it is private options.

    Raises:
        ProviderError: it is not; another provider may succeed.
    """
    try:
        parse_private_options(opened)
    except ValueError as error:
        raise ProviderError(f"it opened the wrapped key to malformed private options: {error}") from error
    return opened


def _new_kek(
    provider: Configured, parameters: list[bytes], packet_format: str
) -> tuple[bytes, envelope.Envelope] | None:
    """Create a key-encryption key, and ask a provider to wrap it.

    Returns:
        The key, and an envelope that holds the wrapped key; None if the provider is to wrap each layer's options.

    Raises:
        ProviderError: the provider failed, or does not wrap such keys although `packet_format` is `new`.
    """
    if packet_format == "old" or (not packet_format and not _suits_keks(provider)):
        return None
    kek = envelope.new_kek()
    try:
        letter = envelope.parse(ask(provider, "keywrap", kek, parameters, is_kek=True))
    except NoKekServiceError:
        if packet_format == "new":
            raise
        return None
    if letter is None:
        raise ProviderError("its reply holds no wrapped key-encryption key")
    return kek, letter


def _suits_keks(provider: Configured) -> bool:
    """Check whether to use key-encryption keys by default: not with published formats, which have no field for them."""
    transport = provider.transport
    if isinstance(transport, NativeProvider):
        return transport.provider not in envelope.WITHOUT_ENVELOPES
    return isinstance(transport, GrpcProvider)
