"""The index of an OCI image layout (image-spec, image-layout.md), and references to its images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from decoder import limits
from decoder.errors import ImageError, UsageError, quoted
from decoder.formats import wire
from decoder.image.manifest import annotations_of, check_descriptor

if TYPE_CHECKING:
    from decoder.image.transport import Descriptor

INDEX = "index.json"
LAYOUT_FILE = "oci-layout"
LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_REFERENCE = "org.opencontainers.image.ref.name"
_IMAGE_NAME = "io.containerd.image.name"  # written by ctr and nerdctl, with the registry's name


def split_place(transport: str, what: str, place: str) -> tuple[str, str]:
    """Split PLACE[:REF] at the first colon, as skopeo does.

    Raises:
        UsageError: the place or the reference is empty.
    """
    path, colon, reference = place.partition(":")
    if not path or (colon and not reference):
        raise UsageError(f"{transport}:{place} is not of the form {transport}:{what}[:REF]")
    return path, reference


def parse_index(data: bytes, name: str) -> dict[str, Any]:
    """Parse `index.json`.

    Raises:
        ImageError: it is malformed, or longer than LAYOUT_INDEX_BYTES.
    """
    if len(data) > limits.LAYOUT_INDEX_BYTES:
        raise ImageError(f"{quoted(name)} is longer than {limits.LAYOUT_INDEX_BYTES} bytes")
    try:
        index = wire.parse_object(data)
    except ValueError as error:
        raise ImageError(f"{quoted(name)}: {error}") from error
    entries = index.get("manifests")
    if not isinstance(entries, list):
        raise ImageError(f"{quoted(name)} has no list of manifests")
    try:
        return {**index, "manifests": [check_descriptor(entry) for entry in entries]}
    except ImageError as error:
        raise ImageError(f"{quoted(name)}: {error}") from error


def find(index: dict[str, Any], reference: str, place: str) -> Descriptor:
    """Return the entry of the image with a reference; for "" that of the only image.

    Raises:
        ImageError: no image fits, or more than one.
    """
    entries: list[Descriptor] = index["manifests"]
    names = [entry_name(entry) for entry in entries]
    found = [entry for entry in entries if has_name(entry, reference)] if reference else entries
    if len({entry["digest"] for entry in found}) == 1:
        return found[0]
    there = ", ".join(quoted(name) for name in names[: limits.REPORTED_ATTEMPTS]) or "none"
    problem = "several images" if found else "no image"
    wanted = f" {quoted(reference)}" if reference else ""
    raise ImageError(f"{quoted(place)} holds {problem}{wanted}; their names are {there}")


def entry_name(entry: Descriptor) -> str:
    """Return the name of an entry, or ""."""
    return annotations_of(entry).get(_REFERENCE, "")


def has_name(entry: Descriptor, reference: str) -> bool:
    """Check whether an entry has a name, in OCI's annotation or in containerd's; "" fits entries without OCI's."""
    return reference == entry_name(entry) or (bool(reference) and annotations_of(entry).get(_IMAGE_NAME) == reference)


def named(descriptor: Descriptor, reference: str, replaced: Descriptor | None = None) -> Descriptor:
    """Return an image's descriptor as an entry of the index, with a new name.

    Args:
        descriptor: the image's descriptor.
        reference: the name, or "".
        replaced: the entry that it replaces, whose names it gets instead; or None.
    """
    kept = {name: text for name, text in annotations_of(descriptor).items() if name not in (_REFERENCE, _IMAGE_NAME)}
    names = {_REFERENCE: reference} if reference else {}
    if replaced:
        names = {name: text for name, text in annotations_of(replaced).items() if name in (_REFERENCE, _IMAGE_NAME)}
    annotations = {**kept, **names}
    rest = {name: value for name, value in descriptor.items() if name != "annotations"}
    return {**rest, **({"annotations": annotations} if annotations else {})}
