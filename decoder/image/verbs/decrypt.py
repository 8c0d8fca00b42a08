"""`image decrypt`: encrypted layers made plain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from decoder.errors import quoted
from decoder.image import blobs, manifest, selection, transfer
from decoder.image.retries import again
from decoder.image.verbs.changes import Group, Opened, Outcome, group, note_if_nothing_changed, open_layer
from decoder.layer import annotations as layer

if TYPE_CHECKING:
    from decoder.image.progress import Progress
    from decoder.image.selection import LayerRange
    from decoder.image.transfer import Job, Work
    from decoder.image.transport import ImageSource, ImageTarget
    from decoder.keys.keyring import DecryptConfig


class Request(NamedTuple):
    """What to decrypt, and with which keys.

    Attributes:
        keys: open the layers.
        ranges: choose layers by number; none for all.
        platforms: choose manifests; none for all.
        verify: read every changed layer back.
    """

    keys: DecryptConfig
    ranges: Sequence[LayerRange]
    platforms: Sequence[str]
    verify: bool


def decrypt_image(source: ImageSource, target: ImageTarget, request: Request, progress: Progress) -> Outcome:
    """Write an image with chosen layers decrypted. Nothing is written before every layer is opened.

    Args:
        source: the image.
        target: where to.
        request: which layers, with which keys.
        progress: shows it, and says what was not done.

    Raises:
        UsageError: a layer or platform that was asked for is not there.
        LockedError: no key opens a layer.
        DecoderError: reading, writing or verifying failed; the target's name is as it was.
    """
    root = manifest.load(source)
    chosen = selection.choose_layers(selection.choose_images(root, request.platforms), request.ranges)
    encrypted = []
    for each in chosen:
        if each.descriptor["mediaType"] in layer.DECODABLE:
            encrypted.append(each)
        elif manifest.is_encrypted(each.descriptor["mediaType"]):
            progress.remark(f"{each.describe()} is left as it is: its type is {quoted(each.descriptor['mediaType'])}")
        else:
            progress.remark(f"{each.describe()} is not encrypted, and left as it is")
    work = transfer.Work(progress)
    verb = _Decryption(source, target, request)
    groups = group(encrypted)
    work.run([verb.opening_job(each) for each in groups])
    work.run([verb.decrypting_job(each) for each in groups])
    work.run(transfer.copy_rest(source, target, root))
    note_if_nothing_changed(verb.changes, progress)
    return Outcome(transfer.publish(target, root), verb.changes)


class _Decryption:
    """The jobs, and what is known between them."""

    def __init__(self, source: ImageSource, target: ImageTarget, request: Request) -> None:
        self._source = source
        self._target = target
        self._request = request
        self._opened: dict[int, Opened] = {}
        self.changes: list[dict[str, Any]] = []

    def opening_job(self, layers: Group) -> Job:
        """Open a layer's key."""

        def job(_work: Work) -> None:
            annotations = manifest.annotations_of(layers.descriptor)
            media_type, keys = layers.descriptor["mediaType"], self._request.keys
            self._opened[id(layers.layers)] = open_layer(annotations, media_type, keys, layers.describe())

        return job

    def decrypting_job(self, layers: Group) -> Job:
        """Decrypt a layer, and read it back."""

        def job(work: Work) -> None:
            opened = self._opened[id(layers.layers)]
            descriptor = layers.descriptor
            size = descriptor["size"]
            task = work.progress.task(f"decrypt {layers.describe()}", size * (2 if self._request.verify else 1))
            advance = work.advance(task.advance)
            written = again(
                lambda: blobs.decrypt(self._source, self._target, descriptor, opened.key, opened.plain, advance),
                task,
            )
            media_type = manifest.PLAIN_LAYERS[descriptor["mediaType"].removesuffix(layer.ENCRYPTED)]
            self.changes += layers.change(media_type, written.digest, written.size, {}, "decrypted")
            if self._request.verify:
                new = {"mediaType": media_type, "digest": written.digest, "size": written.size}
                blobs.verify_plain(self._target, new, advance)
            task.done(f"decrypted {layers.describe()}: {written.digest} ({written.size} bytes)")

        return job
