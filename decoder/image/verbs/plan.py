"""The plan of `encrypt`: the layers to encrypt, those to get other recipients, and those that must not stay plain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from decoder.errors import DecoderError, UsageError
from decoder.image import manifest, selection
from decoder.image.manifest import shown
from decoder.image.transfer import is_elsewhere
from decoder.image.verbs.changes import Group, group
from decoder.layer.annotations import DECODABLE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from decoder.image.manifest import Node
    from decoder.image.progress import Progress
    from decoder.image.selection import Layer
    from decoder.image.transport import ImageSource
    from decoder.image.verbs.request import Request

ALL = "all"


class AlreadyEncryptedError(DecoderError):
    """A layer is encrypted already, and no key was given that could open it to add recipients."""

    status = 4


class Plan(NamedTuple):
    """The layers to change: plain ones to encrypt, and encrypted ones whose recipients change."""

    plain: list[Group]
    encrypted: list[Group]


def plan(root: Node, source: ImageSource, request: Request, progress: Progress) -> Plan:
    """Decide about every selected layer. Unless the request allows it, none may stay readable for everybody.

    Args:
        root: the image's manifests.
        source: the image.
        request: which layers, and for which recipients.
        progress: gets a remark about each layer that stays as it is.

    Raises:
        UsageError: a layer or platform does not exist, a media type has no encrypted form, or nothing is selected.
        AlreadyEncryptedError: a layer is encrypted already, and no key was given.
    """
    sorting = _Sorting(source, request, progress)
    if not request.platforms and not request.ranges:
        for entry in selection.other_entries(root):
            sorting.judge_without_form(f"{entry['digest']}, an entry of the index,", entry["mediaType"])
    for node in selection.choose_manifests(root, request.platforms):
        if not node.layers:
            sorting.judge_without_form(f"the manifest for {node.name}, which has no layers,", _config_type(node))
    for each in _selected_layers(root, request):
        sorting.sort(each)
    return sorting.result()


class _Sorting:
    def __init__(self, source: ImageSource, request: Request, progress: Progress) -> None:
        self._source = source
        self._request = request
        self._progress = progress
        self._plain: list[Layer] = []
        self._encrypted: list[Layer] = []
        self._without_form: list[str] = []
        self._locked: list[str] = []
        self._may_stay = 0

    def sort(self, each: Layer) -> None:
        """Decide what happens with a layer."""
        media_type = each.descriptor["mediaType"]
        if manifest.is_plain(media_type):
            self._sort_plain(each)
        elif media_type in DECODABLE:
            if self._request.keys is None:
                self._locked.append(each.describe())
            else:
                self._encrypted.append(each)
        else:
            self.judge_without_form(each.describe(), media_type)

    def judge_without_form(self, what: str, media_type: str) -> None:
        """Decide about a layer or manifest without an encrypted form: it may stay plain if --allow-plain says so."""
        if not self._request.recipients or {media_type, ALL} & set(self._request.allow_plain):
            self._progress.remark(f"{what} stays as it is: {shown(media_type)} has no encrypted form")
            self._may_stay += 1
        else:
            self._without_form.append(f"{what} is {shown(media_type)}")

    def result(self) -> Plan:
        """Return the layers to change.

        Raises:
            UsageError: something has no encrypted form, or nothing is selected.
            AlreadyEncryptedError: a layer is encrypted, and no key was given.
        """
        if self._without_form:
            raise UsageError(
                "\n  ".join(
                    [
                        "nothing was written, because these have no encrypted form and would be readable by everybody:",
                        *_first(self._without_form),
                        "choose others with --layer and --platform, or allow it with --allow-plain TYPE or "
                        f"--allow-plain {ALL}",
                    ]
                )
            )
        if self._locked:
            raise AlreadyEncryptedError(
                f"{', '.join(_first(self._locked))}: encrypted already; to add recipients, pass a --key that opens them"
            )
        if not self._plain and not self._encrypted and not self._may_stay:
            raise UsageError("nothing was written: the chosen part of the image has no layer to encrypt")
        return Plan(group(self._plain), group(self._encrypted))

    def _sort_plain(self, each: Layer) -> None:
        if not self._request.recipients:
            self._progress.remark(f"{each.describe()} is not encrypted, so it has no recipient to remove")
            self._may_stay += 1
        elif is_elsewhere(self._source, each.descriptor):
            self._progress.remark(f"{each.describe()} stays plain: it is a foreign layer, stored elsewhere (urls)")
        else:
            self._plain.append(each)


def _selected_layers(root: Node, request: Request) -> Iterable[Layer]:
    nodes = selection.choose_manifests(root, request.platforms)
    chosen = selection.choose_layers(nodes, request.ranges)
    if request.base is None:
        return chosen
    base = manifest.load(request.base)
    skipped = {node.descriptor["digest"]: selection.layers_of_base(node, base) for node in nodes}
    return [each for each in chosen if each.number >= skipped[each.node.descriptor["digest"]]]


def _config_type(node: Node) -> str:
    return str(node.value.get("artifactType") or node.value["config"]["mediaType"])


def _first(lines: Sequence[str]) -> list[str]:
    most = 16
    return [*lines[:most], *([f"and {len(lines) - most} more"] if len(lines) > most else [])]
