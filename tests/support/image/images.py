"""A small image that runs, busybox, a few MiB of noise, and a script that prints what it finds."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import random
import tarfile
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

NAME = "greeting"
GREETING = "hello from the last layer"
LAST_WORD = "  /noise\n"  # of what the container prints
TAR = "application/vnd.oci.image.layer.v1.tar"
GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
DOCKER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_REFERENCE = "org.opencontainers.image.ref.name"
_BUSYBOX = Path("/bin/busybox")  # Debian's busybox-static: the rootfs has no libraries
_NOISE_BYTES = 5 * 1024 * 1024 + 7
_EXECUTABLE = 0o755
_GO_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}  # the image-spec names machines as Go does


class Layer(NamedTuple):
    """A layer's blob and its media type."""

    blob: bytes
    media_type: str


class Layout:
    """An OCI image layout (image-spec, image-layout.md) that holds one image.

    Args:
        directory: of the layout.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest of the one image."""
        index = json.loads((self.directory / "index.json").read_bytes())
        (descriptor,) = index["manifests"]
        return self.read_json(descriptor)

    @property
    def layers(self) -> list[dict[str, Any]]:
        """The descriptors of the image's layers."""
        return list(self.manifest["layers"])

    def read(self, descriptor: Mapping[str, Any]) -> bytes:
        """Return the blob of a descriptor."""
        return self._path(descriptor["digest"]).read_bytes()

    def read_json(self, descriptor: Mapping[str, Any]) -> dict[str, Any]:
        """Return the JSON object that a descriptor points to."""
        value: dict[str, Any] = json.loads(self.read(descriptor))
        return value

    def add(self, blob: bytes, media_type: str) -> dict[str, Any]:
        """Store a blob and return its descriptor."""
        digest = digest_of(blob)
        self._path(digest).parent.mkdir(parents=True, exist_ok=True)
        self._path(digest).write_bytes(blob)
        return {"mediaType": media_type, "digest": digest, "size": len(blob)}

    def write_manifest(self, config: Mapping[str, Any], layers: Sequence[Mapping[str, Any]]) -> None:
        """Make an image of a configuration and the descriptors of its layers, and the only one in the index."""
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": self.add(_json(config), _CONFIG),
            "layers": layers,
        }
        descriptor = {**self.add(_json(manifest), _MANIFEST), "annotations": {_REFERENCE: NAME}}
        (self.directory / "index.json").write_bytes(_json({"schemaVersion": 2, "manifests": [descriptor]}))
        (self.directory / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))

    def replace_last_layer(self, descriptor: Mapping[str, Any], diff_id: str) -> None:
        """Put another layer in the place of the last, with everything that names it: config, manifest and index."""
        config = self.read_json(self.manifest["config"])
        config["rootfs"]["diff_ids"][-1] = diff_id
        self.write_manifest(config, [*self.layers[:-1], descriptor])

    def archive(self) -> bytes:
        """Pack the layout for `ctr images import`."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            archive.add(self.directory, arcname=".")
        return packed.getvalue()

    def _path(self, digest: str) -> Path:
        algorithm, value = digest.split(":")
        return self.directory / "blobs" / algorithm / value


def write_image(directory: Path, media_type: str) -> Layout:
    """Write the layout of the image, all of its layers of one media type.

    Args:
        directory: is made.
        media_type: TAR, GZIP or DOCKER_GZIP.
    """
    return write_layers(directory, [packed(tar, media_type) for tar in rootfs_layers()])


def write_layers(directory: Path, layers: Sequence[Layer]) -> Layout:
    """Write the layout of an image of these layers; it runs /greet."""
    layout = Layout(directory)
    descriptors = [layout.add(layer.blob, layer.media_type) for layer in layers]
    config = {
        "architecture": _GO_MACHINES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Cmd": ["/bin/sh", "/greet"]},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(_unpacked(layer)) for layer in layers]},
    }
    layout.write_manifest(config, descriptors)
    return layout


@cache
def rootfs_layers() -> tuple[bytes, ...]:
    """Make the tar archives of the image's layers, the script's last."""
    return (
        tar_of({"bin/busybox": _BUSYBOX.read_bytes()}, {"bin/sh": "busybox", "bin/sha256sum": "busybox"}),
        tar_of({"noise": noise()}),
        tar_of({"greet": script(GREETING)}),
    )


def expected_output(greeting: str = GREETING) -> str:
    """Tell what the container prints."""
    return f"{greeting}\n{hashlib.sha256(noise()).hexdigest()}{LAST_WORD}"


def script(greeting: str) -> bytes:
    """Write the script that the container runs."""
    return f"echo '{greeting}'\nsha256sum /noise\n".encode()


def noise() -> bytes:
    """Make the bytes that do not compress, the same each time."""
    return random.Random(1).randbytes(_NOISE_BYTES)


def packed(tar: bytes, media_type: str) -> Layer:
    """Make a layer of a tar archive, compressed as its media type says."""
    return Layer(tar if media_type == TAR else _gzip(tar), media_type)


def tar_of(files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> bytes:
    """Pack files and symbolic links, all of them executable and of the epoch's first second."""
    archive_bytes = io.BytesIO()
    with tarfile.open(fileobj=archive_bytes, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), _EXECUTABLE
            archive.addfile(entry, io.BytesIO(content))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return archive_bytes.getvalue()


def digest_of(blob: bytes) -> str:
    """Return the digest of a blob, as descriptors have it."""
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


@lru_cache(16)  # tests pack the same few again and again
def _gzip(tar: bytes) -> bytes:
    return gzip.compress(tar, compresslevel=1, mtime=0)


def _unpacked(layer: Layer) -> bytes:
    return layer.blob if layer.media_type == TAR else gzip.decompress(layer.blob)


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
