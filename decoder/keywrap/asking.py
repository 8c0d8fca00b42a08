"""A call to one keyprovider: in this process, by a command, or over gRPC or ttrpc."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from decoder import limits
from decoder.errors import UsageError
from decoder.provider import envelope
from decoder.provider.client import protocol
from decoder.provider.client.config import (
    CommandProvider,
    Configured,
    GrpcProvider,
    MalformedProvider,
    NativeProvider,
    TtrpcProvider,
)
from decoder.provider.client.held import EACH_ONCE, Held
from decoder.provider.errors import NoKekServiceError, ProviderError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from decoder.keys.subject import Subject
    from decoder.provider.audit import Operation, Provider

_PACKETS = "attestation-agent"
NO_PARAMETER = b"Enabled"  # the parameter that clients send for `provider:NAME` alone


def ask(
    provider: Configured,
    operation: protocol.Operation,
    data: bytes,
    parameters: list[bytes],
    held: Held = EACH_ONCE,
    is_kek: bool = False,
) -> bytes:
    """Ask one provider from this process.

    Args:
        provider: its entry in the configuration.
        operation: `keywrap` or `keyunwrap`.
        data: the options to wrap, or the wrapped key to unwrap.
        parameters: the client's parameters for this provider.
        held: clients of key services, connections and opened keys to reuse; by default nothing is reused.
        is_kek: whether a key-encryption key is wrapped, and not a layer's options.

    Raises:
        NoKekServiceError: the provider does not wrap or unwrap key-encryption keys.
        ProviderError: the provider failed, or did not answer in time.
    """
    transport, seconds = provider.transport, provider.seconds
    if isinstance(transport, MalformedProvider):
        raise ProviderError(transport.reason)
    if isinstance(transport, NativeProvider):
        from decoder.provider.deadline import within

        if is_kek and transport.provider == _PACKETS:
            raise NoKekServiceError("the packets of Confidential Containers cannot hold key-encryption keys")
        native = protocol.OPERATIONS[operation, is_kek]
        return within(seconds, lambda: _ask_native(transport, native, data, parameters, seconds, held))
    is_options = isinstance(transport, GrpcProvider) and operation == "keyunwrap" and not is_kek
    if is_options and (letter := envelope.parse(data)):
        with suppress(NoKekServiceError):  # then the server opens the envelope
            return _open_envelope(provider, letter, parameters, held)
    return _ask_other(provider, operation, data, parameters, held, is_kek)


def has_opened(provider: Configured, data: bytes, parameters: list[bytes], held: Held) -> bool:
    """Check whether the key-encryption key of a wrapped key is kept, without asking the provider for it.

    Args:
        provider: its entry in the configuration.
        data: the wrapped key of a layer.
        parameters: the client's parameters for this provider.
        held: the keys that are kept.

    Raises:
        ProviderError: the wrapped key is malformed, or its key may not be used.
    """
    if held.keks is None or not (letter := envelope.parse(data)):
        return False
    if isinstance(provider.transport, GrpcProvider):
        return held.keks.get(_kek_name(provider, letter, parameters)) is not None
    if not isinstance(provider.transport, NativeProvider):
        return False
    with _native(provider.transport, held) as service:
        return not service.prepare("unwrap", data, _texts(parameters)).waits


def _open_envelope(provider: Configured, letter: envelope.Envelope, parameters: list[bytes], held: Held) -> bytes:
    """Open an envelope with its key-encryption key, which is kept, or which the server unwraps."""

    def open_kek() -> bytes:
        opened = ask(provider, "keyunwrap", letter.wrapped_kek, parameters, held, is_kek=True)
        return envelope.check_kek(opened)

    if held.keks is None:
        return envelope.open_with(open_kek(), letter)
    name = _kek_name(provider, letter, parameters)
    return envelope.open_with(held.keks.opened(name, open_kek, provider.seconds), letter)


def _kek_name(provider: Configured, letter: envelope.Envelope, parameters: list[bytes]) -> bytes:
    from hashlib import sha256

    return sha256(repr((provider.transport, parameters, letter.wrapped_kek)).encode()).digest()


def _ask_other(
    provider: Configured,
    operation: protocol.Operation,
    data: bytes,
    parameters: list[bytes],
    held: Held,
    is_kek: bool,
) -> bytes:
    """Ask a provider in another process."""
    transport, seconds = provider.transport, provider.seconds
    request = protocol.build_request(operation, data, provider.name, parameters)
    if len(request) > limits.PROVIDER_MESSAGE_BYTES:
        raise ProviderError(f"the request would be longer than {limits.PROVIDER_MESSAGE_BYTES} bytes")
    if is_kek and not isinstance(transport, GrpcProvider):
        raise NoKekServiceError("only our own providers, in this process or as a gRPC server, wrap key-encryption keys")
    if isinstance(transport, CommandProvider):
        from decoder.provider.client import command

        reply = command.ask(transport, request, seconds)
    elif isinstance(transport, TtrpcProvider):
        from decoder.provider.client import ttrpc as ttrpcclient

        reply = ttrpcclient.ask(transport, operation, request, seconds)
    else:
        from decoder.provider.client import grpc as grpcclient

        assert isinstance(transport, GrpcProvider)  # noqa: S101 - there is no other
        question = grpcclient.Question(grpcclient.method_of(operation, is_kek), request, _image(provider.subject))
        reply = grpcclient.ask(transport, question, seconds, held)
    try:
        return protocol.parse_reply(operation, reply)
    except ValueError as error:
        raise ProviderError(f"its reply cannot be read: {error}") from error


def _image(subject: Subject) -> str:
    """Return the reference of the image, or what the content store shows of it."""
    if subject.image or not subject.root:
        return subject.image
    from decoder.node.containerd.imagename import find_image

    found = find_image(subject.root, subject.layer)
    return found.name.strip("'") or found.digest


def _ask_native(
    native: NativeProvider,
    operation: Operation,
    data: bytes,
    parameters: list[bytes],
    seconds: float,
    held: Held,
) -> bytes:
    """Run one of our own providers in this process."""
    texts = _texts(parameters)
    try:
        with _native(native, held) as service:
            # Its time ends a little before ours, so that its own error is shown.
            seconds *= limits.PROVIDER_OWN_SHARE
            return service.perform(operation, data, texts, seconds)
    except ProviderError:
        raise
    except Exception as error:  # from a library: its text may hold a secret, and another provider may succeed
        raise ProviderError(f"it failed unexpectedly ({type(error).__name__})") from error


def _texts(parameters: list[bytes]) -> list[str]:
    try:
        return [parameter.decode() for parameter in parameters if parameter != NO_PARAMETER]
    except UnicodeDecodeError as error:
        raise ProviderError("its parameter is not text") from error


def _native(native: NativeProvider, held: Held) -> AbstractContextManager[Provider]:
    """Return a context with one of our own providers, kept from before or new."""
    from decoder import provider

    def create() -> Provider:
        try:
            return provider.create(native.provider, native.options, keks=held.keks)
        except UsageError as error:
            raise ProviderError(f"its configuration: {error}") from error

    return held.use(provider.identity(native.provider, native.options), create, lambda _: None)
