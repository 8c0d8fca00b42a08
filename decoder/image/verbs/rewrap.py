"""`image rewrap`: change the recipients of many images. Only manifests are written; the blobs stay.

An image that has the recipients already is left unchanged. To resume an interrupted run, run the command again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from decoder.errors import DecoderError, UsageError
from decoder.image import manifest, transfer, transport
from decoder.image.selection import choose_images, choose_layers
from decoder.image.verbs import companions
from decoder.image.verbs.changes import group
from decoder.image.verbs.opening import UnknownTypeError
from decoder.image.verbs.rewrapping import STILL_OPEN, Rewrapping
from decoder.layer.annotations import DECODABLE

if TYPE_CHECKING:
    from decoder.image.names import Recipient
    from decoder.image.progress import Progress
    from decoder.image.recipients import Recipients
    from decoder.keys.keyring import DecryptConfig

CHANGED, WOULD_CHANGE, UNCHANGED, PLAIN, FAILED = "changed", "would change", "unchanged", "not encrypted", "failed"


class RewrapError(DecoderError):
    """Some images could not be changed; the text names them."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class Request(NamedTuple):
    """What to change.

    Attributes:
        recipients: the recipients to add.
        keys: the keys to open the layers with.
        removed: returns whether to remove a recipient; None to remove nobody.
        platforms: the platforms of the manifests; empty for all.
        dry_run: whether to report changes without making them.
    """

    recipients: Recipients
    keys: DecryptConfig
    removed: Callable[[Recipient], bool] | None
    platforms: Sequence[str]
    dry_run: bool


class Result(NamedTuple):
    """The result for one image.

    Attributes:
        image: the image, `TRANSPORT:PLACE`.
        action: CHANGED, WOULD_CHANGE, UNCHANGED, PLAIN or FAILED.
        layers: how many layers changed, or would change.
        digest: the image's digest afterwards; "" if it failed.
        error: the error, or None.
    """

    image: str
    action: str
    layers: int
    digest: str
    error: DecoderError | None = None

    def for_programs(self) -> dict[str, Any]:
        """Return the members for --json."""
        reason = str(self.error) if self.error else ""
        return {"image": self.image, "action": self.action, "layers": self.layers, "digest": self.digest} | {
            "reason": reason
        }


def rewrap_all(places: Sequence[str], options: transport.Options, request: Request, progress: Progress) -> list[Result]:
    """Change the recipients of all images at some places; continue after failures.

    Args:
        places: the places, `TRANSPORT:PLACE`; a repository stands for all of its tags.
        options: the settings for transports.
        request: what to change.
        progress: shows the progress and remarks.

    Raises:
        DecoderError: the images at a place cannot be listed.
    """
    results = []
    listed = [(place, transport.list_images(place, options)) for place in places]
    for place, images in listed:
        done = [_attempt(image, options, request, progress) for image in images]
        if done and all(each.action == PLAIN for each in done):
            error = UsageError(
                f"{place}: no image there is encrypted, so it has no recipients; image encrypt gives it some"
            )
            progress.remark(str(error))
            done = [each._replace(error=error) for each in done]
        results += done
    if request.removed and any(each.action == CHANGED for each in results):
        progress.remark(STILL_OPEN)
    return results


def raise_for_failures(results: Sequence[Result]) -> None:
    """Raise an error if an image failed, or if there was none.

    Raises:
        RewrapError: an image failed; the status is that of the first failure.
        UsageError: there is no image.
    """
    failed = [each for each in results if each.error]
    if failed:
        first = failed[0].error
        assert first is not None  # noqa: S101 - for the type checker
        names = ", ".join(each.image for each in failed)
        raise RewrapError(f"{len(failed)} of {len(results)} images failed: {names}", first.status)
    if not results:
        raise UsageError("there is no image at these places")


def _attempt(image: str, options: transport.Options, request: Request, progress: Progress) -> Result:
    try:
        return _rewrap(image, options, request, progress)
    except DecoderError as error:
        progress.remark(f"{image}: {error}")
        return Result(image, FAILED, 0, "", error)


def _rewrap(image: str, options: transport.Options, request: Request, progress: Progress) -> Result:
    request.recipients.forget()  # keys that a failed image before may have left
    with transport.open_source(image, options) as source:
        root = manifest.load(source)
        chosen = [
            each
            for each in choose_layers(choose_images(root, request.platforms), [])
            if manifest.is_encrypted(each.descriptor["mediaType"])
        ]
        for each in chosen:
            if each.descriptor["mediaType"] not in DECODABLE:
                raise UnknownTypeError(f"{each.describe()}: the decoder does not know its media type")
        digest = root.descriptor["digest"]
        if not chosen:
            return Result(image, PLAIN, 0, digest)
        companions.check_encrypted_zstd(group(chosen), request.recipients)
        rewrapping = Rewrapping(source, request.recipients, request.keys, request.removed)
        done = transfer.Work(progress).run([rewrapping.job(each) for each in group(chosen)])
        changes = [change for changed in done for change in changed]
        if not changes:
            return Result(image, UNCHANGED, 0, digest)
        if broken := companions.broken(root, source):
            progress.remark(
                f"warning: {image}: these refer to the old digest and must be created again: {', '.join(broken)}"
            )
        if request.dry_run:
            return Result(image, WOULD_CHANGE, len(changes), digest)
        with transport.open_target(image, options._replace(source=image)) as target:
            new = transfer.publish(target, root, lambda descriptor: request.recipients.publish(image, descriptor))
            target.forget([], [digest])
    return Result(image, CHANGED, len(changes), new["digest"])
