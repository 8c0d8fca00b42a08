"""Changing the recipients of layers that are encrypted already; their blobs stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from decoder.errors import LayerError, UsageError, WrappedKeyError, quoted
from decoder.image import manifest, names
from decoder.image.recipients import add_wrapped
from decoder.image.verbs.changes import encryption_of, open_layer
from decoder.keywrap.pkcs7.naming import subjects_of
from decoder.layer.annotations import ENCRYPTED

if TYPE_CHECKING:
    from decoder.image.names import Recipient
    from decoder.image.progress import Progress
    from decoder.image.recipients import Recipients
    from decoder.image.transfer import Job, Work
    from decoder.image.transport import BlobSource
    from decoder.image.verbs.changes import Group
    from decoder.keys.keyring import DecryptConfig

STILL_OPEN = (
    "removing a recipient does not revoke access: everybody who pulled the image before has a manifest that opens its "
    "layers; to lock them out, decrypt the image and encrypt it again, so that it gets new keys"
)


class Rewrapping:
    """The jobs that change recipients.

    Args:
        source: the image.
        recipients: the recipients to add.
        keys: the keys, which must open the layers before and after the change.
        removed: returns whether to remove a recipient; None to remove nobody.
    """

    def __init__(
        self,
        source: BlobSource,
        recipients: Recipients,
        keys: DecryptConfig,
        removed: Callable[[Recipient], bool] | None,
    ) -> None:
        self._source = source
        self._recipients = recipients
        self._keys = keys
        self._removed = removed
        self._has_removed = False

    def job(self, layers: Group) -> Job[list[Any]]:
        """Return the job that changes the recipients of a layer; the keys must still open it afterwards."""

        def job(work: Work) -> list[Any]:
            where, descriptor = layers.describe(), layers.descriptor
            media_type = descriptor["mediaType"]
            before = encryption_of(manifest.annotations_of(descriptor))
            opened = open_layer(before, descriptor, self._source, self._keys, where)
            after = self._without_removed(before, where, work.progress)
            wrapped, known = self._recipients.wrap_to_others(opened.options, names.identities(after))
            for text in known:
                work.progress.remark(f"{where}: {quoted(text)} is a recipient already, and was not added again")
            after = add_wrapped(after, wrapped)
            if after == before:
                return []
            again = open_layer(after, descriptor, self._source, self._keys, f"{where}, with its new recipients")
            if again.key != opened.key:
                raise LayerError(f"{where}: with its new recipients it opens to another key")
            media_type = manifest.PLAIN_LAYERS[media_type.removesuffix(ENCRYPTED)] + ENCRYPTED
            work.progress.finished(f"new recipients of {where}: {descriptor['digest']}")
            return layers.change(media_type, descriptor["digest"], descriptor["size"], after, "recipients changed")

        return job

    def check_removed(self) -> None:
        """Check that at least one layer had a recipient to remove, because the option may be misspelt.

        Raises:
            UsageError: no layer had such a recipient.
        """
        if self._removed and not self._has_removed:
            raise UsageError("--remove-recipient: no chosen layer has such a recipient; layerinfo lists their names")

    def _without_removed(self, before: dict[str, str], where: str, progress: Progress) -> dict[str, str]:
        if self._removed is None:
            return before
        subjects = subjects_of([material.data for material in self._keys.keyring.certificates])
        try:
            after = names.without(before, subjects, self._removed)
        except WrappedKeyError as error:
            raise UsageError(f"--remove-recipient: {error}") from error
        if after == before:
            progress.remark(f"{where}: no such recipient to remove")
        else:
            self._has_removed = True
        return after
