"""Keyproviders as a scheme: private options wrapped and unwrapped by a command or a service.

A provider is told its own parameters alone: no private key of the payload or the node, and nothing that is meant for
another provider.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from decoder import limits
from decoder.errors import KeyFileError, ProviderFailedError, UsageError, WrappedKeyError, quoted
from decoder.formats import wire
from decoder.keys.file import read_key_file
from decoder.keys.keyring import Notes
from decoder.keywrap.recipient import KeyName, is_whole, shown
from decoder.layer.annotations import parse_private_options
from decoder.provider.client import protocol
from decoder.provider.client.config import (
    CommandProvider,
    Configured,
    MalformedProvider,
    NativeProvider,
    TtrpcProvider,
    parse_config,
)
from decoder.provider.client.held import EACH_ONCE, Held
from decoder.provider.errors import ProviderError

if TYPE_CHECKING:
    from decoder.keys.keyring import DecryptConfig
    from decoder.keywrap import Refused
    from decoder.provider.audit import Provider

CONFIG_VARIABLE = "OCICRYPT_KEYPROVIDER_CONFIG"
# Providers of our own that wrap without an entry in the configuration, for all that they need is in their parameter.
_WITHOUT_ENTRY = ("attestation-agent",)
_NO_PARAMETER = b"Enabled"  # what clients send for `provider:NAME` alone
# Names of a payload's parameters that hold keys; no provider of such a name gets to see them.
_KEY_PARAMETERS = ("privkeys", "x509s", "gpg-", "pkcs11-")


# The members by which the JSON of most keyproviders names a key.
_NAME_MEMBERS = ("key_url", "kid", "key_id", "keyid", "kbs_uri")


class KeyProvider:
    """One keyprovider, by the name that annotations give it.

    Args:
        name: what follows `provider.` in the annotation's name.
        config_file: configures keyproviders when wrapping; by default what $OCICRYPT_KEYPROVIDER_CONFIG names.
        own: options of our own provider of this name, which then wraps whatever is configured.
    """

    def __init__(self, name: str, config_file: str = "", own: Mapping[str, object] | None = None) -> None:
        self._name = name
        self._config_file = config_file
        self._own = own
        self._notes = Notes()

    @property
    def warnings(self) -> list[str]:
        """What is odd about the configuration that `wrap` has read, and about the providers that it asked."""
        return self._notes.warnings

    def unwrap(self, wrapped: bytes, config: DecryptConfig, refused: Refused) -> bytes | None:
        """Unwrap with the first configured provider that can: first the one of this name, then those with this alias.

        Args:
            wrapped: what the provider's `wrap` returned, at most PROVIDER_ANNOTATION_BYTES.
            config: `keyprovider_config` is the file, `parameters` hold the provider's.
            refused: not called; every failure is in the exception.

        Raises:
            WrappedKeyError: it is too long, or no provider is configured for it.
            ProviderFailedError: the configuration cannot be read, or every provider that is configured failed.
        """
        if len(wrapped) > limits.PROVIDER_ANNOTATION_BYTES:
            raise WrappedKeyError(f"it is longer than {limits.PROVIDER_ANNOTATION_BYTES} bytes")

        def unwrap_with(provider: Configured) -> bytes:
            parameters = self._parameters(provider, config)
            opened = config.keyring.kept.ask(provider, "keyunwrap", wrapped, parameters)
            return _checked_options(ask(provider, "keyunwrap", wrapped, parameters) if opened is None else opened)

        notes = config.keyring.notes
        return _first_answer(self._configured(config.keyprovider_config, notes), notes, unwrap_with)

    def wrap(self, options: bytes, recipients: Sequence[bytes]) -> bytes:
        """Wrap with the first configured provider that can; attestation-agent needs no entry in the configuration.

        Args:
            options: the private options.
            recipients: the parameters for the provider: what follows `provider:NAME:`, or none.

        Raises:
            WrappedKeyError: no provider is configured for the name.
            ProviderFailedError: the configuration cannot be read, or every provider that is configured failed.
        """
        parameters = list(recipients) or [_NO_PARAMETER]
        providers = self._to_wrap()
        return _first_answer(providers, self._notes, lambda provider: ask(provider, "keywrap", options, parameters))

    def read_recipient(self, value: str, read_keyring: Callable[[], bytes]) -> list[bytes]:
        """Return the parameter for the provider; see `keywrap.Scheme`."""
        return [value.encode()]

    def recipients(self, wrapped: bytes, subjects: Mapping[bytes, str]) -> list[KeyName]:
        """Name the one recipient by what the JSON of most keyproviders tells; see `keywrap.Scheme`."""
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
        """Read the entries that answer to this name."""
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
        """Choose the provider's own parameters; for an alias those that came under the annotation's name."""
        for name in (provider.name, self._name):
            if not name.startswith(_KEY_PARAMETERS) and name in config.parameters:
                return list(config.parameters[name])
        return []


def _first_answer(providers: list[Configured], notes: Notes, work: Callable[[Configured], bytes]) -> bytes:
    """Return what the first provider answers; those that failed before it leave a warning."""
    failures = []
    for provider in providers:
        try:
            answer = work(provider)
        except ProviderError as error:
            failures.append(f"the keyprovider {quoted(provider.name)} ({provider.transport.describe()}): {error}")
        else:
            for failure in failures:
                notes.warn(failure)
            return answer
    raise ProviderFailedError("; ".join(failures))


def _checked_options(opened: bytes) -> bytes:
    """Refuse what cannot be private options: then the provider failed, and another may do better."""
    try:
        parse_private_options(opened)
    except ValueError as error:
        raise ProviderError(f"it opened the wrapped key to malformed private options: {error}") from None
    return opened


def ask(
    provider: Configured,
    operation: protocol.Operation,
    data: bytes,
    parameters: list[bytes],
    held: Held = EACH_ONCE,
) -> bytes:
    """Ask one provider from this process.

    Args:
        provider: its entry in the configuration.
        operation: whether to wrap or to unwrap.
        data: what to wrap or to unwrap.
        parameters: what the client has for this provider.
        held: clients of key services and connections to reuse; by default they are made for this call.

    Raises:
        ProviderError: it failed.
    """
    transport, seconds = provider.transport, provider.seconds
    if isinstance(transport, MalformedProvider):
        raise ProviderError(transport.reason)
    if isinstance(transport, NativeProvider):
        from decoder.provider.deadline import within

        return within(seconds, lambda: _ask_native(transport, operation, data, parameters, seconds, held))
    request = protocol.build_request(operation, data, provider.name, parameters)
    if len(request) > limits.PROVIDER_MESSAGE_BYTES:
        raise ProviderError(f"the request would be longer than {limits.PROVIDER_MESSAGE_BYTES} bytes")
    if isinstance(transport, CommandProvider):
        from decoder.provider.client import command

        reply = command.ask(transport, request, seconds)
    elif isinstance(transport, TtrpcProvider):
        from decoder.provider.client import ttrpc as ttrpcclient

        reply = ttrpcclient.ask(transport, operation, request, seconds)
    else:
        from decoder.provider.client import grpc as grpcclient

        reply = grpcclient.ask(transport, operation, request, seconds, held)
    try:
        return protocol.parse_reply(operation, reply)
    except ValueError as error:
        raise ProviderError(f"its reply cannot be read: {error}") from None


def _ask_native(
    native: NativeProvider,
    operation: protocol.Operation,
    data: bytes,
    parameters: list[bytes],
    seconds: float,
    held: Held,
) -> bytes:
    """Run one of our own providers in this process."""
    from decoder import provider

    try:
        texts = [parameter.decode() for parameter in parameters if parameter != _NO_PARAMETER]
    except UnicodeDecodeError as error:
        raise ProviderError("its parameter is not text") from error

    def create() -> Provider:
        try:
            return provider.create(native.provider, native.options)
        except UsageError as error:
            raise ProviderError(f"its configuration: {error}") from error

    try:
        with held.use((native.provider, json.dumps(native.options)), create, lambda _: None) as service:
            # Its time ends a little before ours, so that its own error is the one that is seen.
            perform = service.wrap if operation == "keywrap" else service.unwrap
            return perform(data, texts, seconds * limits.PROVIDER_OWN_SHARE)
    except ProviderError:
        raise
    except Exception as error:  # a library's; its text may hold a secret, and another provider may do better
        raise ProviderError(f"it failed in a way that was not foreseen ({type(error).__name__})") from error
