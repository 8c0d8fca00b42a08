"""`image encrypt`: encrypt layers, add recipients to encrypted layers, remove recipients."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from decoder import limits
from decoder.image import blobs, manifest, transfer
from decoder.image.recipients import Wrapped
from decoder.image.recompress import Recompressed
from decoder.image.retries import again
from decoder.image.verbs import companions
from decoder.image.verbs.changes import Group, Outcome, note_if_nothing_changed
from decoder.image.verbs.plan import plan
from decoder.image.verbs.rewrapping import STILL_OPEN, Rewrapping
from decoder.layer.annotations import ENCRYPTED, LayerKey, PrivateOptions, build_annotations, parse_public_options

if TYPE_CHECKING:
    from decoder.image.progress import Progress
    from decoder.image.transfer import Job, Work
    from decoder.image.transport import Descriptor, ImageSource, ImageTarget
    from decoder.image.verbs.request import Request

Prepared = tuple[PrivateOptions, Wrapped]
"""The key of a layer, and the same wrapped for every recipient."""


def encrypt_image(source: ImageSource, target: ImageTarget, request: Request, progress: Progress) -> Outcome:
    """Write an image with its chosen layers encrypted.

    If a layer is encrypted already, the recipients are added to it and its blob stays. Nothing is written before the
    keys of all layers are wrapped.

    Args:
        source: the image.
        target: the destination.
        request: which layers, and for which recipients.
        progress: shows the progress, and remarks about layers that stay as they are.

    Raises:
        UsageError: a layer or platform does not exist, cannot be encrypted, or a recipient cannot be used.
        AlreadyEncryptedError: a layer is encrypted already, and no key was given to open it.
        LockedError: no key opens an encrypted layer.
        DecoderError: reading, writing or verifying failed; the target's name is unchanged.
    """
    root = manifest.load(source)
    chosen = plan(root, source, request, progress)
    companions.consider(root, source, keep=request.keep_attestations or not chosen.plain, progress=progress)
    companions.check_copies(chosen, root, progress)
    companions.check_compression(chosen, request, progress)
    companions.check_guests(chosen, request, progress)
    work = transfer.Work(progress)
    with ExitStack() as stack:
        recompressed = stack.enter_context(Recompressed(source))
        verb = _Encryption(recompressed, target, request)
        plain = chosen.plain
        if request.recompress:
            plain = work.run([verb.recompressing_job(each) for each in plain])
        prepared = work.run([verb.wrapping_job(each) for each in plain])
        changes = []
        if request.keys:
            rewrapping = Rewrapping(source, request.recipients, request.keys, request.removed)
            changes = work.run([rewrapping.job(each) for each in chosen.encrypted])
            rewrapping.check_removed()
        request.recipients.check_publishing()
        pairs = zip(plain, prepared, strict=True)
        changes += work.run([verb.encrypting_job(each, key) for each, key in pairs])
        work.run(transfer.copy_rest(source, target, root))

    def before(descriptor: Descriptor) -> None:
        request.recipients.publish(request.destination, descriptor)

    outcome = Outcome(transfer.publish(target, root, before), [change for changed in changes for change in changed])
    note_if_nothing_changed(outcome.changes, progress)
    if request.removed and outcome.changes:
        progress.remark(STILL_OPEN)
    companions.tidy(target, root, chosen.plain, progress)
    return outcome


class _Encryption:
    """The jobs that encrypt layers.

    Args:
        source: the image, with its recompressed layers.
        target: the destination.
        request: the recipients, and how to encrypt.
    """

    def __init__(self, source: Recompressed, target: ImageTarget, request: Request) -> None:
        self._source = source
        self._target = target
        self._request = request

    def recompressing_job(self, layers: Group) -> Job[Group]:
        """Return the job that converts a zstd layer to gzip; it returns other layers unchanged."""

        def job(work: Work) -> Group:
            if not layers.descriptor["mediaType"].endswith("zstd"):
                return layers
            task = work.progress.task(f"recompressing {layers.describe()}", layers.descriptor["size"])
            diff_id = next(iter(layers.layers[0].node.diff_ids[layers.layers[0].number :]), None)
            new = self._source.add(layers.descriptor, diff_id, work.advance(task.advance))
            task.done(f"compressed {layers.describe()} as gzip: {new['digest']} ({new['size']} bytes); same diff ID")
            return layers._replace(recompressed=new)

        return job

    def wrapping_job(self, layers: Group) -> Job[Prepared]:
        """Return the job that generates a key for a plain layer, and wraps it."""
        return lambda _work: self._wrap(layers)

    def encrypting_job(self, layers: Group, prepared: Prepared) -> Job[list[Any]]:
        """Return the job that encrypts a plain layer, and reads it back."""
        unused = [prepared]

        def job(work: Work) -> list[Any]:
            descriptor = layers.descriptor
            task = work.progress.task(f"encrypting {layers.describe()}", descriptor["size"])
            advance = work.advance(task.advance)

            def attempt() -> tuple[PrivateOptions, Wrapped, blobs.Written]:
                # Every attempt has its own key and nonce, because others may have a part of an earlier ciphertext.
                options, wrapped = unused.pop() if unused else self._wrap(layers)
                return options, wrapped, blobs.encrypt(self._source, self._target, descriptor, options, advance)

            options, wrapped, written = again(attempt, task)
            media_type = manifest.PLAIN_LAYERS[descriptor["mediaType"]] + ENCRYPTED
            annotations = build_annotations(written.hmac, wrapped)
            changes = layers.change(media_type, written.digest, written.size, annotations, "encrypted")
            if self._request.verify:
                task.phase(f"verifying {layers.describe()}")
                new = {"mediaType": media_type, "digest": written.digest, "size": written.size}
                hmac = parse_public_options(annotations).hmac
                key = LayerKey(options.symmetric_key, options.nonce, hmac)
                blobs.verify_encrypted(self._target, new, key, options.digest, advance)
            task.done(f"encrypted {layers.describe()}: {written.digest} ({written.size} bytes)")
            return changes

        return job

    def _wrap(self, layers: Group) -> Prepared:
        key, nonce = os.urandom(limits.SYMMETRIC_KEY_BYTES), os.urandom(limits.NONCE_BYTES)
        options = PrivateOptions(key, nonce, layers.descriptor["digest"])
        return options, self._request.recipients.wrap(options)
