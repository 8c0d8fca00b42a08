"""The story of one layer: payload, keys, unwrap, stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decoder import keywrap, limits
from decoder.errors import DecoderError, DeniedError, KeyProviderError, LayerError, NoKeyError
from decoder.keys.directory import add_directory
from decoder.keys.keyring import DecryptConfig, Keyring
from decoder.keys.subject import Subject
from decoder.keywrap.unproven import UnprovenError, keys_to_prove
from decoder.layer import stream
from decoder.layer.annotations import LayerKey, PublicOptions, check_media_type, layer_key, parse_public_options
from decoder.layer.payload import Descriptor, parse_payload
from decoder.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from decoder.keys.kept import Kept
    from decoder.node.containerd.contentstore import Search


class Settings(Record):
    """The settings that come from containerd's configuration and the machine, not from the layer.

    Attributes:
        keys_directory: a directory with keys besides those of the payload, or "" for none; it need not exist.
        keyprovider_config: the file that configures keyproviders, or "" for none; it need not exist.
        buffer_bytes: the maximum number of bytes that are read and deciphered at a time.
        open_spool: opens a file that holds the ciphertext until the whole layer is verified.
        look_up: searches containerd's content store for the descriptor of the layer that starts with
            these bytes.
        is_config_required: whether `keyprovider_config` must exist, because an option names it and not only the
            environment.
        find_root: returns containerd's root directory, or "". The content store there has the name of the image, for
            the audits of keyprovider servers.
        is_verified_first: whether all plaintext is held back until the whole layer is verified, instead of only its
            last TAIL_BYTES.
    """

    keys_directory: str
    keyprovider_config: str
    buffer_bytes: int
    open_spool: Callable[[], stream.Spool]
    look_up: Callable[[bytes], Search]
    is_config_required: bool = False
    is_verified_first: bool = False
    find_root: Callable[[], str] = str


class _Opened(Record):
    """The key of a layer, or the candidates for it.

    Attributes:
        keys: the layer's key, or several candidates if only the layer's HMAC can tell which one is right.
        digest: the digest in the layer's descriptor.
        unless_verified: the error to raise if none of several candidates passes, regardless of the reason; None if
            `keys` holds the layer's key.
    """

    keys: list[LayerKey]
    digest: str
    unless_verified: LayerError | None = None


class _Candidate(Record):
    """A descriptor that may be the layer's, with its public options and the search for its key."""

    descriptor: Descriptor
    public: PublicOptions
    search: keywrap.KeySearch


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
        kept: parsed keys and keyproviders' answers that an earlier process kept; by default nothing.

    Returns:
        Warnings for the operator: a line for each file or payload entry that was skipped because it holds no
        usable key.

    Raises:
        PayloadError: the payload is malformed or not for an encrypted layer, or no payload came and the content store
            has no descriptor either.
        NoKeyError: no key opens the layer.
        DeniedError: the configuration denies the layer to this host.
        LayerError: the layer or its annotations are damaged or not authentic.
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
    opened = _open_first(descriptors, config, settings.find_root, is_only=search is None)
    try:
        if opened.unless_verified or settings.is_verified_first:
            stream.decrypt_verified(source, sink, opened.keys, settings.open_spool(), settings.buffer_bytes)
        else:
            stream.decrypt(source, sink, opened.keys[0], settings.buffer_bytes)
    except DecoderError as error:
        # With unproven keys, one error for every failure: it must not tell a wrong key from a damaged layer.
        failure = opened.unless_verified if isinstance(error, LayerError) and opened.unless_verified else error
        failure.layer = opened.digest
        raise failure from error.__cause__
    return keyring.notes.brief_warnings + (search.warnings if search else [])


def _open_first(
    descriptors: Iterable[Descriptor], config: DecryptConfig, find_root: Callable[[], str], is_only: bool
) -> _Opened:
    """Open the layer by the first descriptor that a key fits; several manifests may name one blob.

    Keys on this machine, and keys that earlier layers have opened, are tried for all descriptors before any keyprovider
    or token is asked for one of them.
    """
    budget = keywrap.new_budget(config.keyprovider_config)
    config = config._replace(budget=budget)
    failures: list[DecoderError] = []
    waiting: list[_Candidate] = []
    for descriptor in descriptors:
        try:
            about = config._replace(subject=_subject(descriptor.digest, find_root))
            candidate = _Candidate(descriptor, *_read(descriptor, about, is_only))
            if options := candidate.search.try_likely():
                return _Opened([layer_key(candidate.public, options)], descriptor.digest)
        except (NoKeyError, LayerError, DeniedError) as error:  # another descriptor may be neither locked nor denied
            _keep(failures, error, descriptor)
        else:
            _let_wait(waiting, candidate, failures)
    for number, candidate in enumerate(waiting):
        budget.waiting = len(waiting) - number
        try:
            if options := candidate.search.try_rest():
                return _Opened([layer_key(candidate.public, options)], candidate.descriptor.digest)
            _keep(failures, candidate.search.error(), candidate.descriptor)
        except LayerError as error:
            _keep(failures, error, candidate.descriptor)
    failure = _joined(failures)
    # Keys without integrity protection come last, because only the HMAC of the whole layer tells whether one is right.
    unproven = [found for each in waiting for found in each.search.unproven]
    if unproven:
        keys = [key for each in waiting for key, _ in keys_to_prove(each.public, each.search.unproven)]
        digest = next(each.descriptor.digest for each in waiting if each.search.unproven)
        return _Opened(keys[: limits.UNPROVEN_KEYS], digest, UnprovenError(failure, unproven))
    raise failure


def _subject(digest: str, find_root: Callable[[], str]) -> Callable[[], Subject]:
    return lambda: Subject("", digest, find_root())


def _read(descriptor: Descriptor, config: DecryptConfig, is_only: bool) -> tuple[PublicOptions, keywrap.KeySearch]:
    try:
        check_media_type(descriptor.media_type)
        public = parse_public_options(descriptor.annotations)
        return public, keywrap.KeySearch(descriptor.annotations, config, descriptor.media_type, is_only)
    except DecoderError as error:
        error.layer = descriptor.digest
        raise


def _keep(failures: list[DecoderError], error: DecoderError, descriptor: Descriptor) -> None:
    """Keep the reason why a descriptor did not open, but none of the local variables in its traceback."""
    error.layer = descriptor.digest
    _clear_frames(error)
    failures.append(error)


def _let_wait(waiting: list[_Candidate], candidate: _Candidate, failures: list[DecoderError]) -> None:
    """Keep a candidate for the second round. There is a bound, because all candidates are in memory."""
    size = sum(map(len, candidate.descriptor.annotations.values()))
    if not waiting or (len(waiting) < limits.STORE_CANDIDATES and size <= limits.STORE_CANDIDATE_BYTES):
        waiting.append(candidate)
    elif len(failures) < limits.STORE_CANDIDATES:
        _keep(failures, candidate.search.error(), candidate.descriptor)


def _joined(failures: list[DecoderError]) -> DecoderError:
    """Return one error for all descriptors: a denial if there is one, then missing keys, then any other failure."""
    if denied := [failure for failure in failures if isinstance(failure, DeniedError)]:
        return denied[0]
    locked = [failure for failure in failures if isinstance(failure, NoKeyError)]
    if len(locked) > 1:
        kind = next((type(failure) for failure in locked if isinstance(failure, KeyProviderError)), NoKeyError)
        attempts = [attempt for failure in locked for attempt in failure.attempts]
        combined = kind(attempts, locked[0].notes, locked[0].advice)
        combined.layer = locked[0].layer
        return combined
    return (locked or failures)[0]


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
