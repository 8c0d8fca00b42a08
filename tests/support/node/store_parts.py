"""A content store of containerd, as files, and the decoder that searches it."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from decoder import limits
from decoder.errors import PayloadError
from decoder.keywrap import jwe
from decoder.layer.annotations import KEYS_PREFIX
from decoder.node.containerd.contentstore import BLOBS, Search
from tests.support.keywrap.layers import MEDIA_TYPE, Layer, encrypted, private_options
from tests.support.program.processes import Result, run_decoder

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1024 * 1024
WINDOW = limits.STORE_WINDOW_BYTES
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
PLAINTEXT = bytes(range(256)) * 100
NOTHING_FOUND = "has no layer that begins like this one"


class Store:
    """A content store below a root directory; what is added later is newer, by ten seconds."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = root / BLOBS
        self.blobs.mkdir(parents=True)
        self._seconds = 1_000_000_000

    def add(self, blob: bytes) -> str:
        """Add a blob and return its digest."""
        return self.add_as(hashlib.sha256(blob).hexdigest(), blob)

    def add_as(self, name: str, blob: bytes) -> str:
        """Add a blob under a name that need not be its digest."""
        self._seconds += 10
        with open(f"{self.blobs}/{name}", "wb", buffering=0) as file:  # pathlib takes longer than the file system
            file.write(blob)
            os.utime(file.fileno(), (self._seconds, self._seconds))
        return f"sha256:{name}"

    def add_manifest(self, *layers: object, **members: object) -> str:
        """Add the manifest of an image, and return its digest."""
        return self.add(manifest(*layers, **members))

    def add_image(self, *layers: Layer, **members: object) -> str:
        """Add the blobs of layers and their manifest, and return its digest."""
        return self.add_manifest(*(descriptor_of(layer, self.add(layer.ciphertext)) for layer in layers), **members)

    def search(self, head: bytes, media_type: str = "") -> Search:
        return Search(str(self.root), head, media_type, "no payload came")

    def find(self, head: bytes, media_type: str = "") -> list[str]:
        """Return the wrapped keys of the descriptors that are found."""
        return [found.annotations[KEYS_PREFIX + "jwe"] for found in self.search(head[:WINDOW], media_type)]


def manifest(*layers: object, **members: object) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "layers": layers, **members}).encode()


def descriptor_of(layer: Layer, digest: str) -> dict[str, Any]:
    return {**layer.descriptor, "digest": digest, "size": len(layer.ciphertext)}


def labelled(label: str, digest: str, media_type: str = MEDIA_TYPE) -> dict[str, Any]:
    """Make a descriptor whose annotation tells which one it is."""
    return {"mediaType": media_type, "digest": digest, "annotations": {KEYS_PREFIX + "jwe": label}}


def wrapped_for(*public_keys: bytes) -> Layer:
    return encrypted(PLAINTEXT, {"jwe": [jwe.wrap(private_options(), list(public_keys))]})


def decode(store: Store, layer: Layer, keys: Path, *arguments: str, **how: Any) -> Result:
    options = ["--content-store", str(store.root), "--decryption-keys-path", str(keys), *arguments]
    return run_decoder(how.pop("payload", None), layer.ciphertext, *options, **how)


def fails(result: Result, status: int, *texts: str) -> None:
    assert (result.status, result.plaintext) == (status, b""), result.errors
    assert result.errors.startswith("ctd-decoder: error: ")
    for text in texts:
        assert text in result.errors


def nothing_found(store: Store, head: bytes, manifests: int, layers: int, media_type: str = "") -> None:
    counts = rf"\({manifests} manifests with encrypted layers were read, {layers} such layers compared\)"
    with pytest.raises(PayloadError, match=f"no payload came, and .*{NOTHING_FOUND} {counts}"):
        store.find(head, media_type)


def directory(path: Path, _target: Path) -> None:
    path.mkdir()
