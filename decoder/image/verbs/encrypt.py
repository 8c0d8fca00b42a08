"""`image encrypt`: layers encrypted to recipients, recipients added to encrypted layers, recipients removed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from decoder import limits
from decoder.errors import LayerError, UsageError, WrappedKeyError, quoted
from decoder.image import blobs, manifest, names, selection, transfer
from decoder.image.recipients import Recipients, Wrapped, add_wrapped
from decoder.image.retries import again
from decoder.image.verbs.changes import Group, Outcome, encryption_of, group, note_if_nothing_changed, open_layer
from decoder.keywrap.pkcs7.naming import subjects_of
from decoder.layer import annotations as layer

if TYPE_CHECKING:
    from decoder.image.names import Recipient
    from decoder.image.progress import Progress
    from decoder.image.selection import Layer, LayerRange
    from decoder.image.transfer import Job, Work
    from decoder.image.transport import ImageSource, ImageTarget
    from decoder.keys.keyring import DecryptConfig

_STILL_OPEN = (
    "recipients were removed from this image's manifest alone: whoever has pulled it before keeps the old one, which "
    "opens the same layers; to shut them out, decrypt the image and encrypt it anew"
)


class Request(NamedTuple):
    """What to encrypt, and to whom.

    Attributes:
        recipients: get access to every chosen layer.
        ranges: choose layers by number; none for all.
        platforms: choose manifests; none for all.
        base: whose layers stay as they are, or None.
        keys: open layers that are encrypted already; None if none were given.
        removed: whom to take out, or None.
        verify: read every changed layer back.
    """

    recipients: Recipients
    ranges: Sequence[LayerRange]
    platforms: Sequence[str]
    base: ImageSource | None
    keys: DecryptConfig | None
    removed: Callable[[Recipient], bool] | None
    verify: bool


def encrypt_image(source: ImageSource, target: ImageTarget, request: Request, progress: Progress) -> Outcome:
    """Write an image with chosen layers encrypted.

    What is encrypted already gets the recipients added if there are keys, and its blob is not touched. Nothing is
    written before every layer is wrapped.

    Args:
        source: the image.
        target: where to.
        request: which layers, and to whom.
        progress: shows it, and says what was not done.

    Raises:
        UsageError: a layer or platform that was asked for is not there, or a recipient cannot be wrapped to.
        LockedError: no key opens an encrypted layer.
        DecoderError: reading, writing or verifying failed; the target's name is as it was.
    """
    root = manifest.load(source)
    plain, encrypted = _sorted_out(_chosen(root, request), request, progress)
    work = transfer.Work(progress)
    verb = _Encryption(source, target, request)
    work.run([verb.wrapping_job(each) for each in plain] + [verb.rewrapping_job(each) for each in encrypted])
    work.run([verb.encrypting_job(each) for each in plain])
    work.run(transfer.copy_rest(source, target, root))
    note_if_nothing_changed(verb.changes, progress)
    descriptor = transfer.publish(target, root)
    if request.removed and verb.changes:
        progress.remark(_STILL_OPEN)
    return Outcome(descriptor, verb.changes)


class _Encryption:
    """The jobs, and what is known between them."""

    def __init__(self, source: ImageSource, target: ImageTarget, request: Request) -> None:
        self._source = source
        self._target = target
        self._request = request
        self._wrapped: dict[int, tuple[layer.PrivateOptions, Wrapped]] = {}
        self.changes: list[dict[str, Any]] = []

    def wrapping_job(self, layers: Group) -> Job:
        """Make a key for a plain layer, and wrap it."""

        def job(_work: Work) -> None:
            self._wrapped[id(layers.layers)] = self._wrap(layers)

        return job

    def encrypting_job(self, layers: Group) -> Job:
        """Encrypt a plain layer, and read it back."""

        def job(work: Work) -> None:
            descriptor = layers.descriptor
            size = descriptor["size"]
            task = work.progress.task(f"encrypt {layers.describe()}", size * (2 if self._request.verify else 1))
            advance = work.advance(task.advance)

            def attempt() -> tuple[layer.PrivateOptions, Wrapped, blobs.Written]:
                # Somebody may have what was written before, so another attempt has a key and nonce of its own.
                unused = self._wrapped.pop(id(layers.layers), None)
                options, wrapped = unused or self._wrap(layers)
                return options, wrapped, blobs.encrypt(self._source, self._target, descriptor, options, advance)

            options, wrapped, written = again(attempt, task)
            media_type = manifest.PLAIN_LAYERS[descriptor["mediaType"]] + layer.ENCRYPTED
            annotations = layer.build_annotations(written.hmac, wrapped)
            self.changes += layers.change(media_type, written.digest, written.size, annotations, "encrypted")
            if self._request.verify:
                new = {"mediaType": media_type, "digest": written.digest, "size": written.size}
                hmac = layer.parse_public_options(annotations).hmac
                key = layer.LayerKey(options.symmetric_key, options.nonce, hmac)
                blobs.verify_encrypted(self._target, new, key, options.digest, advance)
            task.done(f"encrypted {layers.describe()}: {written.digest} ({written.size} bytes)")

        return job

    def rewrapping_job(self, layers: Group) -> Job:
        """Add and remove recipients of an encrypted layer, which afterwards the keys must still open."""

        def job(work: Work) -> None:
            keys, removed, where = self._request.keys, self._request.removed, layers.describe()
            assert keys is not None  # noqa: S101 - for the type checker: see _sorted_out
            descriptor = layers.descriptor
            before = encryption_of(manifest.annotations_of(descriptor))
            media_type = descriptor["mediaType"]
            opened = open_layer(before, media_type, keys, where)
            after = before
            if removed:
                after = _without(before, keys, removed)
                if after == before:
                    work.progress.remark(f"{where}: no such recipient to remove")
            wrapped, known = self._request.recipients.wrap_to_others(opened.options, names.identities(after))
            for text in known:
                work.progress.remark(
                    f"{where}: {quoted(text)} is among its recipients already, and was not added again"
                )
            after = add_wrapped(after, wrapped)
            if after == before:
                return
            if open_layer(after, media_type, keys, f"{where}, with its new recipients").key != opened.key:
                raise LayerError(f"{where}: with its new recipients it opens to something else")
            media_type = manifest.PLAIN_LAYERS[media_type.removesuffix(layer.ENCRYPTED)] + layer.ENCRYPTED
            self.changes += layers.change(
                media_type, descriptor["digest"], descriptor["size"], after, "recipients changed"
            )
            work.progress.finished(f"changed the recipients of {where}: {descriptor['digest']}")

        return job

    def _wrap(self, layers: Group) -> tuple[layer.PrivateOptions, Wrapped]:
        key, nonce = os.urandom(limits.SYMMETRIC_KEY_BYTES), os.urandom(limits.NONCE_BYTES)
        options = layer.PrivateOptions(key, nonce, layers.descriptor["digest"])
        return options, self._request.recipients.wrap(options)


def _chosen(root: manifest.Node, request: Request) -> list[Layer]:
    images = selection.choose_images(root, request.platforms)
    chosen = selection.choose_layers(images, request.ranges)
    if request.base is None:
        return chosen
    base = manifest.load(request.base)
    skipped = {id(node): selection.layers_of_base(node, base) for node in images}
    return [each for each in chosen if each.number >= skipped[id(each.node)]]


def _sorted_out(chosen: list[Layer], request: Request, progress: Progress) -> tuple[list[Group], list[Group]]:
    """Divide into plain and encrypted layers, and say of every other why nothing is done with it."""
    plain, encrypted = [], []
    for each in chosen:
        media_type = each.descriptor["mediaType"]
        if manifest.is_plain(media_type):
            if request.recipients:
                plain.append(each)
            else:
                progress.remark(f"{each.describe()} is not encrypted, so it has no recipient to remove")
        elif media_type not in layer.DECODABLE:
            progress.remark(f"{each.describe()} is left as it is: {quoted(media_type)} is no type of layer to encrypt")
        elif request.keys is None:
            progress.remark(f"{each.describe()} is encrypted already; with --key, recipients are added")
        else:
            encrypted.append(each)
    return group(plain), group(encrypted)


def _without(annotations: dict[str, str], keys: DecryptConfig, removed: Callable[[Recipient], bool]) -> dict[str, str]:
    subjects = subjects_of([material.data for material in keys.keyring.certificates])
    try:
        return names.without(annotations, subjects, removed)
    except WrappedKeyError as error:
        raise UsageError(f"--remove-recipient: {error}") from error
