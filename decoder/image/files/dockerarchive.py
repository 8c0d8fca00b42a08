"""`docker-archive:FILE[:NAME]`: the output of `docker save`, read as an OCI image with a generated manifest.

The archive's `manifest.json` names configuration and layers without digests. The digests of uncompressed layers are in
the configuration, and are checked when a layer is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, cast

from decoder import limits
from decoder.errors import ImageError, quoted
from decoder.formats import wire
from decoder.formats.mediatypes import OCI_MANIFEST
from decoder.image.manifest import OCI_CONFIG
from decoder.layer.annotations import OCI_TAR
from decoder.layer.digest import digest_of, split_digest

if TYPE_CHECKING:
    from decoder.image.files.tarindex import Section, TarIndex
    from decoder.image.transport import BlobReader, Descriptor

_MAGIC = ((b"\x1f\x8b", "+gzip"), (b"\x28\xb5\x2f\xfd", "+zstd"))


class DockerArchive:
    """An image in an archive of `docker save`.

    Args:
        archive: the archive's content.
        path: the archive's name in messages.
        name: one of the image's `RepoTags`; "" if there is only one image.

    Raises:
        ImageError: it is malformed, or does not have that image.
    """

    def __init__(self, archive: TarIndex, path: str, name: str) -> None:
        self._archive = archive
        self._path = path
        self._files: dict[str, str] = {}
        self._made: dict[str, bytes] = {}
        self._root = self._describe(self._choose(name))

    def root(self) -> Descriptor:
        """Return the descriptor of the generated manifest."""
        return self._root

    @contextmanager
    def open(self, descriptor: Descriptor) -> Iterator[BlobReader]:
        """Open a blob that the generated manifest names."""
        digest = descriptor["digest"]
        if digest in self._made:
            yield cast("BlobReader", BytesIO(self._made[digest]))
        else:
            yield self._archive.section(self._files[digest])

    def referrers(self, _digest: str) -> list[str]:
        """Return nothing: the format has no signatures."""
        return []

    def _choose(self, name: str) -> dict[str, object]:
        try:
            images = wire.parse_json(self._archive.read("manifest.json", limits.LAYOUT_INDEX_BYTES))
            images = [wire.object_value(image) for image in wire.list_value(images)]
            tags = [wire.list_value(image.get("RepoTags")) for image in images]
        except ValueError as error:
            raise ImageError(f"{quoted(self._path)}: manifest.json: {error}") from error
        found = [image for image, names in zip(images, tags, strict=True) if not name or name in names]
        if len(found) == 1:
            return found[0]
        there = ", ".join(quoted(tag) for names in tags for tag in names[: limits.REPORTED_ATTEMPTS])
        raise ImageError(
            f"{quoted(self._path)} holds {len(found)} images{' ' + quoted(name) if name else ''}; "
            f"their names are {there or 'none'}"
        )

    def _describe(self, image: dict[str, object]) -> Descriptor:
        try:
            config_bytes = self._archive.read(wire.text_value(image.get("Config")), limits.IMAGE_CONFIG_BYTES)
            rootfs = wire.object_value(wire.parse_object(config_bytes).get("rootfs"))
            diff_ids = wire.list_value(rootfs.get("diff_ids"))
            files = [wire.text_value(name) for name in wire.list_value(image.get("Layers"))]
        except ValueError as error:
            raise ImageError(f"{quoted(self._path)}: manifest.json or the configuration: {error}") from error
        if len(files) != len(diff_ids) or len(files) > limits.IMAGE_LAYERS:
            raise ImageError(f"{quoted(self._path)} has {len(files)} layers, and diff IDs for {len(diff_ids)}")
        layers = [self._layer(name, diff_id) for name, diff_id in zip(files, diff_ids, strict=True)]
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": self._make(config_bytes, OCI_CONFIG),
            "layers": layers,
        }
        return self._make(json.dumps(manifest, separators=(",", ":")).encode(), OCI_MANIFEST)

    def _make(self, data: bytes, media_type: str) -> Descriptor:
        digest = digest_of(data)
        self._made[digest] = data
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def _layer(self, name: str, diff_id: object) -> Descriptor:
        head = memoryview(bytearray(4))
        self._archive.section(name).readinto(head)
        compression = next((suffix for magic, suffix in _MAGIC if bytes(head).startswith(magic)), "")
        split_digest(diff_id)
        digest = _digest_of_file(self._archive.section(name)) if compression else cast("str", diff_id)
        self._files[digest] = name
        size = self._archive.place(name).size
        return {"mediaType": OCI_TAR + compression, "digest": digest, "size": size}


def _digest_of_file(section: Section) -> str:
    digest, buffer = hashlib.sha256(), memoryview(bytearray(limits.BUFFER_BYTES))
    while count := section.readinto(buffer):
        digest.update(buffer[:count])
    return f"sha256:{digest.hexdigest()}"
