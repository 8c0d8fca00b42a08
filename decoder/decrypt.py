"""The story of one layer: payload, keys, unwrap, stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decoder import keywrap, limits
from decoder.errors import DecoderError, DeniedError, KeyProviderError, LayerError, NoKeyError
from decoder.keys.directory import add_directory
from decoder.keys.keyring import DecryptConfig, Keyring
from decoder.layer import stream
from decoder.layer.annotations import LayerKey, check_media_type, layer_key, parse_public_options
from decoder.layer.payload import Descriptor, parse_payload
from decoder.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from decoder.keys.kept import Kept
    from decoder.node.containerd.contentstore import Search


class Settings(Record):
    """What containerd's configuration and the machine decide, not the layer.

    Attributes:
        keys_directory: holds keys besides those of the payload, or "" for none; it need not exist.
        keyprovider_config: the file that configures keyproviders, or "" for none; it need not exist.
        buffer_bytes: how much is read and decrypted at a time at most, in bytes.
        open_spool: opens the file that holds the ciphertext until the whole layer is verified; without
            it, plaintext is released as it is decrypted, except for its tail.
        look_up: searches containerd's content store for the descriptor of the layer that starts with
            these bytes.
        is_config_required: whether `keyprovider_config` must exist, because an option and not only the environment
            names it.
    """

    keys_directory: str
    keyprovider_config: str
    buffer_bytes: int
    open_spool: Callable[[], stream.Spool] | None
    look_up: Callable[[bytes], Search]
    is_config_required: bool = False


def decrypt_layer(
    payload_bytes: bytes | None,
    source: stream.Source,
    sink: stream.Sink,
    settings: Settings,
    kept: Kept | None = None,
) -> list[str]:
    """Decrypt one layer as containerd asks for it.

    Args:
        payload_bytes: what containerd wrote to descriptor 3, at most PAYLOAD_BYTES; None if no payload came.
        source: the ciphertext, read to its end once a key has opened the layer.
        sink: takes the plaintext; `stream` says what is written before the HMAC is verified.
        settings: everything that does not come with the layer.
        kept: parsed keys and answers of keyproviders that an earlier process kept; by default nothing.

    Returns:
        Warnings for the operator: a line for each file or payload entry that was skipped because it holds no
        usable key.

    Raises:
        PayloadError: the payload is not what containerd sends, or not for an encrypted layer, or no payload
            came and the content store has no descriptor either.
        NoKeyError: no key opens the layer.
        DeniedError: the configuration denies it to this host.
        LayerError: the layer, or what its annotations say, is damaged or not authentic.
        StreamError: reading, writing or spooling failed.
    """
    descriptors: Iterable[Descriptor]
    search: Search | None = None
    keyring = Keyring(kept)
    parameters: dict[str, list[bytes]] = {}
    if payload_bytes is not None:
        payload = parse_payload(payload_bytes)
        parameters = payload.parameters
        keyring.add_parameters(parameters)
        descriptors = [payload.descriptor]
    else:
        source = stream.Rewound(source, limits.STORE_WINDOW_BYTES)
        descriptors = search = settings.look_up(source.head)
    if settings.keys_directory:
        add_directory(keyring, settings.keys_directory)
    else:
        keyring.notes.remarks.append("no keys directory is configured (--decryption-keys-path)")

    file = settings.keyprovider_config
    config = DecryptConfig(keyring, parameters, file, deny_config=file, is_config_required=settings.is_config_required)
    key, digest = _open_first(descriptors, config)

    try:
        if settings.open_spool:
            stream.decrypt_verified(source, sink, key, settings.open_spool(), settings.buffer_bytes)
        else:
            stream.decrypt(source, sink, key, settings.buffer_bytes)
    except DecoderError as error:
        error.layer = digest
        raise
    return keyring.notes.warnings + (search.warnings if search else [])


def _open_first(descriptors: Iterable[Descriptor], config: DecryptConfig) -> tuple[LayerKey, str]:
    """Open the layer with the first descriptor for which there is a key; several manifests may name one blob.

    Returns:
        The key, and the digest that the descriptor has.
    """
    budget = keywrap.Budget(config.keyprovider_config)
    failures: list[NoKeyError | LayerError | DeniedError] = []
    for descriptor in descriptors:
        try:
            return _open(descriptor, config, budget), descriptor.digest
        except (NoKeyError, LayerError, DeniedError) as error:  # another descriptor may be neither locked nor denied
            _clear_frames(error)
            failures.append(error)
    if denied := [failure for failure in failures if isinstance(failure, DeniedError)]:
        raise denied[0]
    locked = [failure for failure in failures if isinstance(failure, NoKeyError)]
    if len(locked) > 1:
        kind = next((type(failure) for failure in locked if isinstance(failure, KeyProviderError)), NoKeyError)
        attempts = [attempt for failure in locked for attempt in failure.attempts]
        combined = kind(attempts, locked[0].notes, locked[0].advice)
        combined.layer = locked[0].layer
        raise combined
    raise (locked or failures)[0]


def _clear_frames(error: BaseException | None) -> None:
    """Release local variables that the traceback of a kept error holds: descriptors may have 4 MiB each."""
    from contextlib import suppress

    while error:
        trace = error.__traceback__
        while trace:
            with suppress(RuntimeError):  # the frame is still running
                trace.tb_frame.clear()
            trace = trace.tb_next
        error = error.__cause__ or error.__context__


def _open(descriptor: Descriptor, config: DecryptConfig, budget: keywrap.Budget) -> LayerKey:
    try:
        check_media_type(descriptor.media_type)
        public = parse_public_options(descriptor.annotations)
        return layer_key(public, keywrap.unwrap_any(descriptor.annotations, config, descriptor.media_type, budget))
    except DecoderError as error:
        error.layer = descriptor.digest
        raise
