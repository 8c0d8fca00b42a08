"""Write reproducible archives, with one date and a fixed order: compressed tar files, and OCI images in a tar file."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

_LAYOUT = '{"imageLayoutVersion":"1.0.0"}'
_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_LEVEL = 6
Descriptor = dict[str, Any]


def pack(directory: Path, file: Path, date: int, prefix: str = "", users: dict[str, int] | None = None) -> str:
    """Write a directory into a compressed tar file, all of it owned by root.

    Args:
        directory: the directory to pack.
        file: the file to write.
        date: the time of every file, in seconds since 1970.
        prefix: the directory in the tar file.
        users: the owner and group of some directories instead of root, by their path in `directory`.

    Returns:
        The SHA-256 of the uncompressed tar file, in hexadecimal.
    """
    with file.open("wb") as raw, gzip.GzipFile("", "wb", _LEVEL, raw, mtime=0) as compressed:
        hashing = _Hashing(compressed)
        with tarfile.open(fileobj=hashing, mode="w|", format=tarfile.PAX_FORMAT) as archive:
            _add(archive, directory, date, prefix, users or {})
    return hashing.hexdigest()


def _add(archive: tarfile.TarFile, directory: Path, date: int, prefix: str, users: dict[str, int]) -> None:
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        member = archive.gettarinfo(path, f"{prefix}/{name}" if prefix else name)
        member.mtime = date
        member.uid = member.gid = users.get(name, 0)
        member.uname = member.gname = ""
        if member.isreg():
            with path.open("rb") as content:
                archive.addfile(member, content)
        else:
            archive.addfile(member)


class _Hashing(io.RawIOBase):
    """A file that digests what is written to it."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()

    def write(self, data: Any) -> int:
        self._sha256.update(data)
        return self._file.write(data)

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()


class Layout:
    """An OCI image layout with images for several platforms (image-spec, image-layout.md and image-index.md).

    Args:
        directory: the directory to create.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._blobs = directory / "blobs/sha256"
        self._blobs.mkdir(parents=True)
        self._layers: dict[str, str] = {}  # the digest of the uncompressed tar file by that of the layer
        self._tags: dict[str, list[Descriptor]] = {}

    def add_layer(self, root: Path, date: int, users: dict[str, int] | None = None) -> Descriptor:
        """Add a layer with the files of a root directory."""
        scratch = self._directory / "layer"
        uncompressed = pack(root, scratch, date, users=users)
        with scratch.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = scratch.stat().st_size
        scratch.rename(self._blobs / digest)
        self._layers[digest] = f"sha256:{uncompressed}"
        return _descriptor(_LAYER, digest, size)

    def add_manifest(self, tag: str, layers: list[Descriptor], config: dict[str, Any]) -> None:
        """Add an image for one platform to a tag.

        Args:
            tag: the tag of the image.
            layers: the layers, in their order.
            config: the image's configuration, in which `architecture`, `os` and perhaps `variant` are its platform.
        """
        identities = [self._layers[layer["digest"].removeprefix("sha256:")] for layer in layers]
        whole = {**config, "rootfs": {"type": "layers", "diff_ids": identities}}
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": self._add_json(_CONFIG, whole),
            "layers": layers,
        }
        platform = {name: config[name] for name in ("architecture", "os", "variant") if name in config}
        self._tags.setdefault(tag, []).append({**self._add_json(_MANIFEST, manifest), "platform": platform})

    def write(self, file: Path, date: int) -> None:
        """Write the archive; it replaces what has its name."""
        (self._directory / "oci-layout").write_text(_LAYOUT)
        named = []
        for tag, manifests in self._tags.items():
            index = self._add_json(_INDEX, {"schemaVersion": 2, "mediaType": _INDEX, "manifests": manifests})
            named.append({**index, "annotations": {"org.opencontainers.image.ref.name": tag}})
        text = json.dumps({"schemaVersion": 2, "mediaType": _INDEX, "manifests": named})
        (self._directory / "index.json").write_text(text)
        scratch = file.with_name(f".{file.name}.partial")
        with tarfile.open(scratch, "w", format=tarfile.PAX_FORMAT) as archive:
            _add(archive, self._directory, date, "", {})
        scratch.replace(file)

    def _add_json(self, kind: str, value: dict[str, Any]) -> Descriptor:
        data = json.dumps(value, separators=(",", ":")).encode()
        digest = hashlib.sha256(data).hexdigest()
        (self._blobs / digest).write_bytes(data)
        return _descriptor(kind, digest, len(data))


def _descriptor(kind: str, digest: str, size: int) -> Descriptor:
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": size}
