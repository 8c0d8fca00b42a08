"""What the look-up of a layer's descriptor costs in a content store of 10,000 blobs, if there is no payload."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.costs import extra
from bench.layers import SMALL_BYTES, make_layer, rsa_key
from bench.process import ciphertext
from bench.programs import PIP, Bench
from bench.report.figures import Figure
from decoder.formats.mediatypes import OCI_MANIFEST
from decoder.layer.payload import parse_payload
from decoder.node.containerd.contentstore import BLOBS


def store(bench: Bench) -> Iterator[Figure]:
    """Measure the look-up in a store whose inode numbers grow, and in one that uses those of deleted files again."""
    layer, blob = make_layer(has_key=False), b"".join(ciphertext(SMALL_BYTES))
    descriptor = parse_payload(layer.payload).descriptor
    listed = {"mediaType": descriptor.media_type, "annotations": descriptor.annotations, "size": len(blob),
              "digest": f"sha256:{hashlib.sha256(blob).hexdigest()}"}  # fmt: skip
    image = [json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": [listed]}).encode(), blob]
    others = [hashlib.sha256(b"%d" % number).digest() for number in range(10_000)]
    for where, blobs in (("growing", [*others, *image]), ("used again", [*image, *others, *image])):
        with TemporaryDirectory() as directory:
            Path(directory, "key.pem").write_bytes(rsa_key())
            _commit(Path(directory, "root"), blobs)
            options = ["--decryption-keys-path", directory, "--content-store", f"{directory}/root"]
            runs = extra(bench, (layer, options), (layer._replace(payload=b""), options))
        yield Figure(f"look-up in a store of 10,000 blobs, inode numbers {where}", "time", {PIP: runs})


def _commit(root: Path, blobs: Sequence[bytes]) -> None:
    """Put blobs into a store as containerd does: each from a directory of its own, which decides its inode number."""
    (root / BLOBS).mkdir(parents=True)
    for blob in blobs:
        path = root / BLOBS / hashlib.sha256(blob).hexdigest()
        if not path.exists():
            (root / "ingest").mkdir()
            (root / "ingest/data").write_bytes(blob)
            (root / "ingest/data").rename(path)
            (root / "ingest").rmdir()
        os.utime(path)
