"""What the look-up in containerd's content store costs when no payload comes: whole processes, with and without."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from bench.compare import Row
from bench.layer import Layer, make_layer
from bench.pipes import ciphertext
from bench.run import run
from decoder.layer.payload import Payload, build_payload, parse_payload
from decoder.node.contentstore import BLOBS

_BLOBS = 10_000
_LAYER_BYTES = 246
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_PLAIN = "application/vnd.oci.image.layer.v1.tar+gzip"


def rows(script: Path, pairs: int) -> list[Row]:
    """Measure the look-up for an image that was just pulled, in stores of 10,000 blobs."""
    return [
        Row(f"look-up in a store of {_BLOBS:,} blobs, {where}", "-", f"{cost * 1e3:.1f} ms", "-", target)
        for where, cost, target in (
            ("inode numbers growing", measure(script, pairs), "at most 10 ms"),
            ("inode numbers used again", measure(script, pairs, inodes_used_again=True), "-"),
        )
    ]


def measure(script: Path, pairs: int, *, inodes_used_again: bool = False) -> float:
    """Return the seconds that a process takes longer without a payload than with one: the median of pairs.

    Args:
        script: our program.
        pairs: how many runs of each, in turn.
        inodes_used_again: the fresh image has the lowest inode numbers of all, not the highest.

    Raises:
        RunError: the program failed, or restored something else than the layer.
    """
    layer = make_layer(_LAYER_BYTES)
    payload = parse_payload(layer.payload)
    with TemporaryDirectory() as directory:
        root, keys = Path(directory, "root"), Path(directory, "keys")
        keys.mkdir()
        (keys / "private.pem").write_bytes(payload.parameters["privkeys"][0])
        image = _image(layer, payload)
        if inodes_used_again:
            _commit(root, image)
        _commit(root, _others())
        for name in _commit(root, image):
            os.utime(name)
        arguments = ["--decryption-keys-path", str(keys), "--content-store", str(root)]
        with_payload = layer._replace(payload=build_payload(Payload({}, payload.descriptor)))
        without = layer._replace(payload=b"")
        for each in (with_payload, without):
            run(script, each, check_bytes=True, arguments=arguments)
        return median(
            -run(script, with_payload, arguments=arguments).wall + run(script, without, arguments=arguments).wall
            for _ in range(pairs)
        )


def _image(layer: Layer, payload: Payload) -> list[bytes]:
    """Make the blobs of an image of one encrypted layer."""
    blob = b"".join(ciphertext(layer.size))
    media_type, annotations, _ = payload.descriptor
    digest = f"sha256:{sha256(blob).hexdigest()}"
    descriptor = {"mediaType": media_type, "digest": digest, "size": len(blob), "annotations": annotations}
    return [_json({"schemaVersion": 2, "mediaType": _MANIFEST, "layers": [descriptor]}), blob]


def _others() -> list[bytes]:
    """Make the blobs of plain images: of ten, a manifest, a configuration, and eight layers."""
    blobs = []
    for number in range(0, _BLOBS, 10):
        layers = [f"\x1f\x8b layer {number + index}".encode() * 100 for index in range(8)]
        digests = [f"sha256:{sha256(layer).hexdigest()}" for layer in layers]
        descriptors = [{"mediaType": _PLAIN, "digest": digest, "size": 1} for digest in digests]
        manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "layers": descriptors}
        blobs += [_json(manifest), _json({"rootfs": {"type": "layers", "diff_ids": digests}}), *layers]
    return blobs


def _commit(root: Path, blobs: Sequence[bytes]) -> list[Path]:
    """Put blobs into a store as containerd does, which decides their inode numbers: each from a directory of its own.

    Returns:
        Where they are; what was there before stays.
    """
    store, ingest = root / BLOBS, root / "ingest"
    store.mkdir(parents=True, exist_ok=True)
    paths = [store / sha256(blob).hexdigest() for blob in blobs]
    for path, blob in zip(paths, blobs, strict=True):
        if not path.exists():
            ingest.mkdir()
            (ingest / "data").write_bytes(blob)
            (ingest / "data").rename(path)
            ingest.rmdir()
    return paths


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
