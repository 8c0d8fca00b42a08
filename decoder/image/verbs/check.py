"""`image check`: a gate for CI and admission. It fails closed: an image that it cannot judge does not pass.

Examples are an unknown encrypted media type, malformed annotations, a manifest without layers, and a missing platform.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from decoder.errors import DecoderError, DigestError, LayerError, UsageError, quoted
from decoder.image import blobs, manifest, selection, transfer
from decoder.image.verbs.changes import LockedError, Opened
from decoder.image.verbs.opening import NotAskedError, Opener, UnknownTypeError
from decoder.layer.annotations import DECODABLE

if TYPE_CHECKING:
    from decoder.image.manifest import Node
    from decoder.image.progress import Progress
    from decoder.image.selection import Layer, LayerRange
    from decoder.image.transfer import Job, Work
    from decoder.image.transport import ImageSource
    from decoder.keys.keyring import DecryptConfig

ALL, ANY = "all", "any"
_LOCKED, _DAMAGED, _PROVIDER_FAILED = 4, 5, 6
_NUMBERS = re.compile(r"[0-9.,-]+")


class CheckError(DecoderError):
    """The image does not pass; the text lists all problems."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class NotCheckedError(DecoderError):
    """No key was given that could check the HMAC of a layer."""

    status = _LOCKED


class Requirement(NamedTuple):
    """The layers that must be encrypted.

    Attributes:
        text: `all`, `any` or numbers, as the user wrote it.
        ranges: the layers by number; empty for `all` and `any`.
    """

    text: str
    ranges: Sequence[LayerRange]


class Request(NamedTuple):
    """What to check.

    Attributes:
        keys: the keys that must open every encrypted layer; None to check only media types.
        platforms: the platforms that must pass; empty for every platform of the image.
        required: the layers that must be encrypted; None for no requirement.
        verify: whether to read every layer, and check digests and HMACs.
    """

    keys: DecryptConfig | None
    platforms: Sequence[str]
    required: Requirement | None = None
    verify: bool = False


class Finding:
    """The result for one layer.

    Attributes:
        layer: the layer.
        is_encrypted: whether the media type is that of an encrypted layer.
        opened: the layer's key; None if the layer is plain, no key opens it, or none was given.
        is_verified: whether the content was read and is correct.
        status: 0 if the layer passes; otherwise the exit status for the problem.
        reason: the problem, or "".
    """

    def __init__(self, each: Layer) -> None:
        self.layer = each
        self.is_encrypted = manifest.is_encrypted(each.descriptor["mediaType"])
        self.opened: Opened | None = None
        self.is_verified = False
        self.status = 0
        self.reason = ""

    def fail(self, error: DecoderError, status: int = 0) -> None:
        """Record why the layer does not pass."""
        self.status, self.reason = status or error.status, str(error)

    def for_programs(self, with_keys: bool) -> dict[str, Any]:
        """Return the members for --json."""
        return {
            "layer": self.layer.number,
            "platform": self.layer.node.platform,
            "digest": self.layer.descriptor["digest"],
            "mediaType": self.layer.descriptor["mediaType"],
            "encrypted": self.is_encrypted,
            "opens": self.opened is not None if self.is_encrypted and with_keys else None,
            "verified": self.is_verified,
            "reason": self.reason,
        }


class Report(NamedTuple):
    """The result of a check.

    Attributes:
        findings: one for each layer.
        problems: the reasons why the image does not pass; empty if it does.
        status: the exit status, 0 if it passes.
    """

    findings: list[Finding]
    problems: list[str]
    status: int


def parse_requirement(text: str) -> Requirement | None:
    """Parse `all`, `any`, or numbers and ranges of layers; "" requires nothing.

    Raises:
        UsageError: the text has another form.
    """
    if text in ("", ALL, ANY):
        return Requirement(text, []) if text else None
    if not _NUMBERS.fullmatch(text):
        raise UsageError(f"--require-encrypted {quoted(text)}: expected all, any, or layer numbers such as 0,2 or -1")
    return Requirement(text, [selection.parse_range(part) for part in text.split(",")])


def check_image(source: ImageSource, request: Request, progress: Progress) -> Report:
    """Check an image. A provider is asked only once for each distinct wrapped key.

    Args:
        source: the image.
        request: what to check.
        progress: shows the progress of reading layers.

    Raises:
        ImageError: the image cannot be read.
        UsageError: --require-encrypted names a layer that does not exist.
    """
    root = manifest.load(source)
    try:
        nodes = _chosen(root, request.platforms)
    except UsageError as error:
        return Report([], [str(error)], _LOCKED)
    findings = [Finding(each) for each in selection.choose_layers(nodes, [])]
    if request.keys is not None:
        _open_all(findings, Opener(request.keys, source))
    if request.verify:
        transfer.Work(progress).run([_verifying_job(source, each) for each in findings if not each.status])
    problems = _unmet(nodes, findings, request.required)
    if request.required and request.required.text == ALL and not request.platforms:
        problems += [
            f"{each['digest']}, an entry of the index, is {manifest.shown(each['mediaType'])}, which is not encrypted"
            for each in selection.other_entries(root)
        ]
    statuses = {each.status for each in findings} | ({_LOCKED} if problems else set())
    status = next((each for each in (_DAMAGED, _PROVIDER_FAILED) if each in statuses), max(statuses, default=0))
    return Report(findings, [*problems, *dict.fromkeys(each.reason for each in findings if each.reason)], status)


def raise_for_problems(report: Report) -> None:
    """Raise an error with all problems, if there are any.

    Raises:
        CheckError: the image does not pass.
    """
    if report.status:
        raise CheckError("\n  ".join(["the image does not pass", *report.problems]), report.status)


def _chosen(root: Node, platforms: Sequence[str]) -> list[Node]:
    nodes = selection.choose_manifests(root, platforms)
    if not platforms:
        return nodes
    # Any node may run an image that names no platform.
    return [*nodes, *(node for node in root.walk() if node.is_image and not node.platform)]


def _open_all(findings: list[Finding], opener: Opener) -> None:
    for each in findings:
        if not each.is_encrypted:
            continue
        try:
            each.opened = opener.open(each.layer)
        except (LockedError, UnknownTypeError, NotAskedError) as error:
            each.fail(error)
        except DigestError as error:
            each.fail(DigestError(f"{each.layer.describe()}: {error}"))


def _verifying_job(source: ImageSource, finding: Finding) -> Job[None]:
    def job(work: Work) -> None:
        descriptor = finding.layer.descriptor
        if transfer.is_elsewhere(source, descriptor):
            work.progress.remark(f"{finding.layer.describe()} is stored elsewhere (urls) and was not read")
            return
        task = work.progress.task(f"verifying {finding.layer.describe()}", descriptor["size"])
        opened = (finding.opened.key, finding.opened.plain) if finding.opened else None
        try:
            blobs.verify(source, descriptor, opened, work.advance(task.advance))
        except (DigestError, LayerError) as error:
            finding.fail(type(error)(f"{finding.layer.describe()}: {error}"), _DAMAGED)
        else:
            finding.is_verified = not finding.is_encrypted or opened is not None
            if not finding.is_verified:
                text = f"{finding.layer.describe()}: its HMAC was not checked: give a --key that opens it"
                finding.fail(NotCheckedError(text))
        task.done(f"verified {finding.layer.describe()}: {descriptor['digest']}")

    return job


def _unmet(nodes: list[Node], findings: list[Finding], required: Requirement | None) -> list[str]:
    """Return a line for each layer that --require-encrypted requires to be encrypted and is not."""
    if required is None:
        return []
    decodable = [each for each in findings if each.layer.descriptor["mediaType"] in DECODABLE]
    if required.text == ANY:
        return [] if decodable else ["no layer is encrypted; at least one must be (--require-encrypted any)"]
    wanted = set(selection.choose_layers(nodes, required.ranges))
    plain = [each for each in findings if each.layer in wanted and each not in decodable]
    empty = [f"the manifest for {node.name} has no layers" for node in nodes if not node.layers]
    return [
        *empty,
        *(f"{each.layer.describe()} is not encrypted (--require-encrypted {required.text})" for each in plain),
        *([] if nodes else ["the image has no manifest that could be encrypted"]),
    ]
