"""`image decrypt`: write an image with its encrypted layers decrypted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from decoder.errors import quoted
from decoder.image import blobs, manifest, selection, transfer
from decoder.image.retries import again
from decoder.image.verbs.changes import Group, Opened, Outcome, group, note_if_nothing_changed
from decoder.image.verbs.opening import Opener, UnknownTypeError
from decoder.layer.annotations import DECODABLE, ENCRYPTED

if TYPE_CHECKING:
    from decoder.image.progress import Progress
    from decoder.image.selection import Layer, LayerRange
    from decoder.image.transfer import Job, Work
    from decoder.image.transport import ImageSource, ImageTarget
    from decoder.keys.keyring import DecryptConfig


class Request(NamedTuple):
    """What to decrypt, and with which keys.

    Attributes:
        keys: the keys to open the layers with.
        ranges: the layers by number; empty for all.
        platforms: the platforms of the manifests; empty for all.
        verify: whether to read every changed layer back.
    """

    keys: DecryptConfig
    ranges: Sequence[LayerRange]
    platforms: Sequence[str]
    verify: bool


def decrypt_image(source: ImageSource, target: ImageTarget, request: Request, progress: Progress) -> Outcome:
    """Write an image with the chosen layers decrypted. Nothing is written before the keys of all layers are opened.

    Args:
        source: the image.
        target: the destination.
        request: which layers, with which keys.
        progress: shows the progress, and remarks about layers that stay as they are.

    Raises:
        UsageError: a layer or platform does not exist.
        LockedError: no key opens a layer.
        UnknownTypeError: an encrypted layer has a media type that the decoder does not know.
        DecoderError: reading, writing or verifying failed; the target's name is unchanged.
    """
    root = manifest.load(source)
    nodes = selection.choose_images(root, request.platforms)
    groups = group(_encrypted(selection.choose_layers(nodes, request.ranges), progress))
    work = transfer.Work(progress)
    opener = Opener(request.keys, source)
    opened = [opener.open(each.layers[0]) for each in groups]
    jobs = [
        _decrypting_job(source, target, each, found, request.verify) for each, found in zip(groups, opened, strict=True)
    ]
    changes = [change for changed in work.run(jobs) for change in changed]
    work.run(transfer.copy_rest(source, target, root))
    note_if_nothing_changed(changes, progress)
    return Outcome(transfer.publish(target, root), changes)


def _encrypted(chosen: list[Layer], progress: Progress) -> list[Layer]:
    encrypted = []
    for each in chosen:
        media_type = each.descriptor["mediaType"]
        if media_type in DECODABLE:
            encrypted.append(each)
        elif manifest.is_encrypted(media_type):
            raise UnknownTypeError(f"{each.describe()} cannot be decrypted: its media type is {quoted(media_type)}")
        else:
            progress.remark(f"{each.describe()} is not encrypted, and stays as it is")
    return encrypted


def _decrypting_job(
    source: ImageSource, target: ImageTarget, layers: Group, opened: Opened, verify: bool
) -> Job[list[Any]]:
    """Return the job that decrypts a layer, and reads it back."""

    def job(work: Work) -> list[Any]:
        descriptor = layers.descriptor
        task = work.progress.task(f"decrypting {layers.describe()}", descriptor["size"])
        advance = work.advance(task.advance)
        written = again(
            lambda: blobs.decrypt(source, target, descriptor, opened.key, opened.plain, advance),
            task,
        )
        media_type = manifest.PLAIN_LAYERS[descriptor["mediaType"].removesuffix(ENCRYPTED)]
        changes = layers.change(media_type, written.digest, written.size, {}, "decrypted")
        if verify:
            task.phase(f"verifying {layers.describe()}")
            blobs.verify_plain(
                target, {"mediaType": media_type, "digest": written.digest, "size": written.size}, advance
            )
        task.done(f"decrypted {layers.describe()}: {written.digest} ({written.size} bytes)")
        return changes

    return job
