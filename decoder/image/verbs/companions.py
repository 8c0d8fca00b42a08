"""Checks around the layers of an image: attestations, signatures, compression, guests, and plain blobs left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from decoder.errors import UsageError, quoted
from decoder.image.manifest import is_plain, rebuild
from decoder.image.selection import Layer
from decoder.keywrap import PROVIDER_PREFIX
from decoder.layer.annotations import wrapped_keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from decoder.image.manifest import Node
    from decoder.image.progress import Progress
    from decoder.image.recipients import Recipients
    from decoder.image.transport import ImageSource, ImageTarget
    from decoder.image.verbs.changes import Group
    from decoder.image.verbs.plan import Plan
    from decoder.image.verbs.request import Request

_FOR_GUESTS = "provider.attestation-agent"  # Confidential Containers, where image-rs unpacks images in the guest


def consider(root: Node, source: ImageSource, *, keep: bool, progress: Progress) -> None:
    """Keep or drop the attestations in an image, and report signatures outside it that are not copied."""
    attestations = [node for node in root.walk() if node.is_attestation and node is not root]
    for node in attestations:
        node.is_dropped = not keep
    if attestations and keep:
        names = ", ".join(node.descriptor["digest"] for node in attestations)
        progress.remark(
            f"warning: {len(attestations)} attestations (SBOM, provenance) describe the plain layers and stay "
            f"readable: {names}; --attestations drop leaves them out"
        )
    if others := _referrers(source, _digests(root)):
        progress.remark(
            f"not copied, because they are about the plain image: {', '.join(others)}; "
            "sign the encrypted image after this (cosign, notation)"
        )


def broken(root: Node, source: ImageSource) -> list[str]:
    """Return the artifacts, such as signatures, that refer to a digest which the changed image no longer has."""
    left = {node.descriptor["digest"] for node in rebuild(root)}
    return _referrers(source, [each for each in _digests(root) if each not in left])


def _digests(root: Node) -> list[str]:
    """Return the digests that signatures may refer to: the image's own, and those of its manifests."""
    return [node.descriptor["digest"] for node in root.walk() if node.is_manifest or node is root]


def _referrers(source: ImageSource, digests: list[str]) -> list[str]:
    return list(dict.fromkeys(text for digest in digests for text in source.referrers(digest)))


def check_copies(plan: Plan, root: Node, progress: Progress) -> None:
    """Report layers whose content stays readable, because a layer that was not chosen is the same blob."""
    chosen = {each for group in plan.plain for each in group.layers}
    blobs = {each.node.layers[each.number]["digest"]: each for each in chosen}
    for node in root.walk():
        for number, descriptor in enumerate(node.layers):
            other = Layer(node, number)
            if descriptor["digest"] in blobs and other not in chosen and is_plain(descriptor["mediaType"]):
                progress.remark(
                    f"warning: the content of {blobs[descriptor['digest']].describe()} stays readable: "
                    f"{other.describe()}, which was not chosen, is the same blob"
                )


def check_compression(plan: Plan, request: Request, progress: Progress) -> None:
    """Report layers that some nodes cannot unpack.

    Raises:
        UsageError: a zstd layer is to be encrypted for Confidential Containers, where nothing unpacks it, or is
            encrypted already and to be converted.
    """
    check_encrypted_zstd(plan.encrypted, request.recipients, is_converted=request.recompress)
    if request.recompress:
        return
    zstd = [each for each in plan.plain if each.descriptor["mediaType"].endswith("zstd")]
    if zstd and _FOR_GUESTS in request.recipients.schemes:
        raise UsageError(
            f"{zstd[0].describe()}: it is compressed with zstd, which Confidential Containers (image-rs) cannot "
            "unpack; convert it with --recompress gzip"
        )
    if zstd:
        progress.remark(
            f"warning: {', '.join(each.describe() for each in zstd)}: compressed with zstd, which containerd's "
            "default configuration does not decrypt; on every node, use the configuration that "
            "`ctd-decoder config containerd` prints, or convert the layers with --recompress gzip"
        )


def check_encrypted_zstd(layers: Sequence[Group], recipients: Recipients, *, is_converted: bool = False) -> None:
    """Check that nothing is asked of encrypted zstd layers that only plain ones allow.

    Raises:
        UsageError: they are to be converted, or to be opened in Confidential Containers.
    """
    zstd = [each for each in layers if "+zstd" in each.descriptor["mediaType"]]
    if not zstd or not (is_converted or _FOR_GUESTS in recipients.schemes):
        return
    problem = "" if is_converted else ", which Confidential Containers (image-rs) cannot unpack"
    raise UsageError(
        f"{zstd[0].describe()}: it is compressed with zstd{problem}, and encrypted already, so that --recompress "
        "cannot convert it: decrypt the image, and encrypt it again with --recompress gzip"
    )


def check_guests(plan: Plan, request: Request, progress: Progress) -> None:
    """Warn if another recipient hides the one for Confidential Containers from the guest.

    image-rs reads only one keyprovider annotation of a layer: the first in alphabetical order.
    """
    schemes = set(request.recipients.schemes)
    for item in (item for each in plan.encrypted for item in wrapped_keys(each.descriptor["annotations"])):
        schemes.add(item.scheme)
    before = sorted(name for name in schemes if name.startswith(PROVIDER_PREFIX) and name < _FOR_GUESTS)
    if _FOR_GUESTS in schemes and before:
        progress.remark(
            f"warning: guests of Confidential Containers (image-rs) read only the first keyprovider annotation, "
            f"{quoted(before[0])}, and will not find the one of provider:attestation-agent"
        )


def tidy(target: ImageTarget, root: Node, encrypted: Iterable[Group], progress: Progress) -> None:
    """Remove the plain blobs of an image that was encrypted in place, and report those that cannot be removed."""
    layers = [each.descriptor["digest"] for group in encrypted for each in group.layers]
    manifests = [node.descriptor["digest"] for node in root.walk()]
    for text in target.forget(list(dict.fromkeys(layers)), manifests):
        progress.remark(f"warning: {text}")
