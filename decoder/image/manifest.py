"""Manifests and indexes (image-spec, manifest.md and image-index.md), read as a tree and written from the leaves up.

Unknown members are kept. A Docker manifest that changes becomes an OCI manifest, because only OCI has media types for
encrypted layers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from decoder import limits
from decoder.errors import ImageError, quoted
from decoder.formats import wire
from decoder.formats.mediatypes import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from decoder.image import blobs
from decoder.layer.annotations import DECODABLE, ENCRYPTED, OCI_TAR
from decoder.layer.digest import digest_of, split_digest

if TYPE_CHECKING:
    from decoder.image.transport import Descriptor, ImageSource

OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
_DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
_IN_OCI = {DOCKER_MANIFEST: OCI_MANIFEST, DOCKER_LIST: OCI_INDEX, _DOCKER_CONFIG: OCI_CONFIG}
_MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)
_INDEXES = (OCI_INDEX, DOCKER_LIST)

# The layer media types without `+encrypted`, each with the OCI type of the same compression.
PLAIN_LAYERS = {
    media_type.removesuffix(ENCRYPTED): OCI_TAR
    + next((f"+{name}" for name in ("gzip", "zstd") if name in media_type), "")
    for media_type in DECODABLE
}
# BuildKit: an attestation names its kind, and the manifest in the same index that it describes.
_REFERENCE_TYPE = "vnd.docker.reference.type"
_ATTESTED = "vnd.docker.reference.digest"
# Layers of statements about images: in-toto (SLSA), cosign and notation.
_STATEMENTS = (
    "application/vnd.in-toto+json",
    "application/vnd.dsse.envelope.v1+json",
    "application/vnd.dev.cosign.simplesigning.v1+json",
    "application/jose+json",
    "application/cose",
)
_DOCUMENT = re.compile(r"[+/](json|xml)$")  # SBOMs of other tools, such as application/spdx+json
_WORD = re.compile(r"[A-Za-z0-9._+/-]{1,128}")


class Node:
    """A manifest or an index, with everything below it.

    Attributes:
        descriptor: the descriptor that refers to it.
        data: its bytes, whose digest is in the descriptor.
        value: its parsed JSON.
        platform: OS, architecture and variant, joined by slashes, printable; "" if they are unknown.
        diff_ids: the digests of the uncompressed layers, from the configuration; empty if it has none.
        children: an index's manifests and indexes.
        others: other descriptors: a manifest's configuration, or an index's entries that are not manifests.
        layers: the descriptors of a manifest's layers.
        changed: new descriptors of layers, by number.
        is_dropped: whether the new image omits it.
    """

    def __init__(self, descriptor: Descriptor, data: bytes, value: dict[str, Any]) -> None:
        self.descriptor = descriptor
        self.data = data
        self.value = value
        self.platform = ""
        self.diff_ids: list[object] = []
        self.children: list[Node] = []
        self.others: list[Descriptor] = []
        self.layers: list[Descriptor] = []
        self.changed: dict[int, Descriptor] = {}
        self.is_dropped = False

    @property
    def is_manifest(self) -> bool:
        """Whether it is a manifest, not an index."""
        return self.descriptor["mediaType"] in _MANIFESTS

    @property
    def is_image(self) -> bool:
        """Whether it is a container image; the layers of other artifacts are not tar archives."""
        types = [str(each["mediaType"]) for each in self.layers]
        return self.is_manifest and (not types or any(is_plain(each) or is_encrypted(each) for each in types))

    @property
    def is_attestation(self) -> bool:
        """Whether it is a statement about another manifest: SBOM, provenance or signature."""
        types = [str(each["mediaType"]) for each in self.layers]
        if annotations_of(self.descriptor).get(_REFERENCE_TYPE) == "attestation-manifest":
            # Anybody can write that annotation, even on an image or a chart. So it counts only if every layer could be
            # a statement.
            return bool(types) and all(_DOCUMENT.search(each) or each in _STATEMENTS for each in types)
        return bool(types) and all(each in _STATEMENTS for each in types)

    @property
    def name(self) -> str:
        """Its name in messages: platform, artifact type or type of the configuration."""
        config = self.value.get("config")
        fallback = config.get("mediaType") if isinstance(config, dict) else self.descriptor["mediaType"]
        return self.platform or shown(self.value.get("artifactType") or fallback)

    def walk(self) -> Iterator[Node]:
        """Yield this node and all below that are not dropped, in the order of the indexes."""
        yield self
        for child in self.children:
            if not child.is_dropped:
                yield from child.walk()


def is_manifest_type(media_type: str) -> bool:
    """Check whether a media type is that of a manifest or an index."""
    return media_type in (*_MANIFESTS, *_INDEXES)


def is_plain(media_type: str) -> bool:
    """Check whether a layer of this media type can be encrypted."""
    return media_type in PLAIN_LAYERS


def is_encrypted(media_type: str) -> bool:
    """Check whether a media type, known or unknown, says that it is encrypted."""
    return media_type.endswith(ENCRYPTED)


def load(source: ImageSource) -> Node:
    """Read the manifests and configurations of an image, and check their digests.

    Raises:
        ImageError: one of them is malformed, or there are too many, or they are nested too deeply.
        DigestError: the digest or size of one of them is wrong.
    """
    return _Loader(source).load(check_descriptor(source.root()))


class _Loader:
    def __init__(self, source: ImageSource) -> None:
        self._source = source
        self._count = 0
        self._bytes = 0
        self._values = 0
        self._configurations: dict[str, tuple[str, list[object]]] = {}

    def load(self, descriptor: Descriptor, depth: int = 0) -> Node:
        self._count += 1
        if depth > limits.IMAGE_INDEX_DEPTH:
            raise ImageError(f"the image has indexes nested more than {limits.IMAGE_INDEX_DEPTH} deep")
        if self._count > limits.IMAGE_MANIFESTS:
            raise ImageError(f"the image has more than {limits.IMAGE_MANIFESTS} manifests")
        data = self._read(descriptor, limits.MANIFEST_BYTES)
        node = Node(descriptor, data, _parse(descriptor, data))
        if descriptor["mediaType"] in _INDEXES:
            self._load_index(node, depth + 1)
        else:
            self._load_manifest(node)
        return node

    def _read(self, descriptor: Descriptor, most: int) -> bytes:
        """Read a manifest or configuration; together they have at most IMAGE_MANIFESTS_BYTES and IMAGE_JSON_VALUES."""
        self._bytes += descriptor["size"]
        if self._bytes > limits.IMAGE_MANIFESTS_BYTES:
            raise ImageError(
                f"the manifests and configurations of the image have more than {limits.IMAGE_MANIFESTS_BYTES} bytes"
            )
        data = blobs.read_whole(self._source, descriptor, most)
        self._values += wire.count_values(data)
        if self._values > limits.IMAGE_JSON_VALUES:
            raise ImageError(
                f"the manifests and configurations of the image have more than {limits.IMAGE_JSON_VALUES} values"
            )
        return data

    def _load_index(self, node: Node, depth: int) -> None:
        for entry in _descriptors(node, "manifests", limits.IMAGE_MANIFESTS):
            if entry["mediaType"] in (*_MANIFESTS, *_INDEXES):
                node.children.append(self.load(entry, depth))
            else:
                node.others.append(entry)

    def _load_manifest(self, node: Node) -> None:
        node.layers = _descriptors(node, "layers", limits.IMAGE_LAYERS)
        config = check_descriptor(node.value.get("config"))
        node.others.append(config)
        platform = ""
        if config["mediaType"] in (OCI_CONFIG, _DOCKER_CONFIG):
            platform, node.diff_ids = self._configuration(config)
        node.platform = _platform(node.descriptor.get("platform")) or platform

    def _configuration(self, descriptor: Descriptor) -> tuple[str, list[object]]:
        """Read the platform and the diff IDs from a configuration, once for each; nothing else of it is kept."""
        digest = descriptor["digest"]
        if digest not in self._configurations:
            try:
                value = wire.parse_object(self._read(descriptor, limits.IMAGE_CONFIG_BYTES))
            except ValueError as error:
                raise ImageError(f"the image configuration {digest}: {error}") from error
            self._configurations[digest] = _platform(value), _diff_ids(value)
        return self._configurations[digest]


def _diff_ids(config: dict[str, object]) -> list[object]:
    rootfs = config.get("rootfs")
    found = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    return found if isinstance(found, list) and len(found) <= limits.IMAGE_LAYERS else []


def check_descriptor(value: object) -> Descriptor:
    """Check the required members of a descriptor (image-spec, descriptor.md).

    Raises:
        ImageError: one of them is absent or malformed.
    """
    if not isinstance(value, dict):
        raise ImageError("a descriptor is absent or not a JSON object")
    split_digest(value.get("digest"))
    size, annotations = value.get("size"), value.get("annotations") or {}
    if not isinstance(value.get("mediaType"), str) or type(size) is not int or size < 0:
        raise ImageError(f"the descriptor of {value['digest']} has no media type or no size")
    if not isinstance(annotations, dict) or not all(isinstance(text, str) for text in annotations.values()):
        raise ImageError(f"the descriptor of {value['digest']} has malformed annotations")
    return cast("Descriptor", value)


def annotations_of(descriptor: Descriptor) -> dict[str, str]:
    """Return the annotations of a checked descriptor; it may have none, or null."""
    return descriptor.get("annotations") or {}


def subject_of(source: ImageSource, descriptor: Descriptor) -> str:
    """Return the digest of a manifest's `subject`; "" if it has none or cannot be read."""
    if descriptor["mediaType"] not in (*_MANIFESTS, *_INDEXES):
        return ""
    try:
        subject = wire.parse_object(blobs.read_whole(source, descriptor, limits.MANIFEST_BYTES)).get("subject")
    except (ImageError, ValueError):
        return ""
    return str(subject.get("digest", "")) if isinstance(subject, dict) else ""


def rebuild(node: Node, renamed: dict[str, str] | None = None) -> list[Node]:
    """Rewrite every manifest and index that has changed, the leaves first and `node` last.

    Args:
        node: the root.
        renamed: gets the new digest of every manifest and index below it, by the old one.

    Returns:
        All manifests and indexes, each after those that it refers to.
    """
    renamed = {} if renamed is None else renamed
    rebuilt: list[Node] = []
    children: list[Descriptor] = []
    kept = [child for child in node.children if not child.is_dropped]
    for child in kept:
        rebuilt += rebuild(child, renamed)
        children.append(rebuilt[-1].descriptor)
        renamed[child.descriptor["digest"]] = children[-1]["digest"]
    if node.changed:
        rebuilt.append(_manifest_with_changes(node))
    elif [each.descriptor["digest"] for each in node.children] != [each["digest"] for each in children]:
        rebuilt.append(_index_of(node, children, renamed))
    else:
        rebuilt.append(node)
    return rebuilt


def described(descriptor: Descriptor, media_type: str, digest: str, size: int) -> Descriptor:
    """Return a descriptor for another blob; members that describe the old blob's bytes or location are dropped."""
    kept = {name: value for name, value in descriptor.items() if name not in ("data", "urls")}
    return {**kept, "mediaType": media_type, "digest": digest, "size": size}


def _manifest_with_changes(node: Node) -> Node:
    layers = [node.changed.get(number) or _in_oci(each, PLAIN_LAYERS) for number, each in enumerate(node.layers)]
    value = {**node.value, "layers": layers, "config": _in_oci(node.value["config"], _IN_OCI)}
    return _written(node.descriptor, value)


def _index_of(node: Node, children: list[Descriptor], renamed: dict[str, str]) -> Node:
    """Rewrite an index, and the entries of attestations, which name the digest of the manifest that they describe."""
    rest = iter(_with_gaps(node, children))
    manifests = []
    for old in node.value["manifests"]:
        entry = old
        if old["mediaType"] in (*_MANIFESTS, *_INDEXES):
            child = next(rest)
            if child is None:
                continue
            entry = described(old, child["mediaType"], child["digest"], child["size"])
        annotations = annotations_of(old)
        if annotations.get(_ATTESTED) in renamed:
            entry = {**entry, "annotations": {**annotations, _ATTESTED: renamed[annotations[_ATTESTED]]}}
        manifests.append(entry)
    return _written(node.descriptor, {**node.value, "manifests": manifests})


def _with_gaps(node: Node, children: list[Descriptor]) -> list[Descriptor | None]:
    rest = iter(children)
    return [None if child.is_dropped else next(rest) for child in node.children]


def _in_oci(descriptor: Descriptor, types: dict[str, str]) -> Descriptor:
    """Return a descriptor with OCI's media type instead of Docker's; others stay the same."""
    media_type = descriptor["mediaType"]
    if ".docker." not in media_type:
        return descriptor
    return {**descriptor, "mediaType": types.get(media_type, media_type)}


def _written(descriptor: Descriptor, value: dict[str, Any]) -> Node:
    old: str = descriptor["mediaType"]
    media_type = _IN_OCI.get(old, old)
    if "mediaType" in value:
        value["mediaType"] = media_type
    data = json.dumps(value, separators=(",", ":")).encode()
    return Node(described(descriptor, media_type, digest_of(data), len(data)), data, value)


def _parse(descriptor: Descriptor, data: bytes) -> dict[str, Any]:
    """Parse a manifest or index; a document that could be either is rejected (CVE-2021-41190)."""
    media_type = descriptor["mediaType"]
    try:
        value: dict[str, Any] = wire.parse_object(data)
    except ValueError as error:
        raise ImageError(f"the manifest {descriptor['digest']}: {error}") from error
    if media_type not in (*_MANIFESTS, *_INDEXES):
        raise ImageError(
            f"{descriptor['digest']} has the media type {quoted(media_type)}, which is neither a manifest nor an index"
        )
    if value.get("mediaType", media_type) != media_type or ("manifests" in value and "layers" in value):
        raise ImageError(f"{descriptor['digest']} is not the {media_type} that its descriptor says")
    return value


def _descriptors(node: Node, name: str, most: int) -> list[Descriptor]:
    entries = node.value.get(name) or []
    if not isinstance(entries, list) or len(entries) > most:
        raise ImageError(f"{node.descriptor['digest']} has no list of {name}, or more than {most}")
    return [check_descriptor(entry) for entry in cast("Sequence[object]", entries)]


def _platform(value: object) -> str:
    """Return a platform as text, from a descriptor's `platform` or from a configuration (image-spec, config.md)."""
    if not isinstance(value, dict):
        return ""
    parts = [value.get(name) or "" for name in ("os", "architecture", "variant")]
    if not all(isinstance(part, str) for part in parts) or not all(parts[:2]):
        return ""
    return shown("/".join(filter(None, parts)))


def shown(text: object) -> str:
    """Return a word from a manifest in printable form: quoted unless it is plain."""
    return text if isinstance(text, str) and _WORD.fullmatch(text) else quoted(text)
