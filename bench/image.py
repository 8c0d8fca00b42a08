"""`image encrypt` from one OCI layout to another, beside skopeo: the same image, the same recipient."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bench.compare import GIB, MIB, Row, size_text
from bench.programs import PIP_PROGRAM
from bench.run import RunError

_TAR = "application/vnd.oci.image.layer.v1.tar+gzip"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_REFERENCE = {"org.opencontainers.image.ref.name": "x"}


def rows(size: int = GIB, pairs: int = 3) -> list[Row]:
    """Measure an image of one layer, in the page cache, with verification and without; TMPDIR says on which disk.

    Args:
        size: of the layer, in bytes; a multiple of 1 MiB.
        pairs: how often each program runs, in turn.
    """
    with TemporaryDirectory() as name:
        directory = Path(name)
        _write_layout(directory / "source", size)
        _write_key(directory / "key.pub")
        runs = [_run_each(directory) for _ in range(pairs)]
    return [_row(f"{size_text(size)} layer, image encrypt, {what}", size, runs, number) for number, what in _OURS]


_OURS = ((1, "not verified"), (2, "verified"))


def _row(what: str, size: int, runs: list[tuple[float, ...]], number: int) -> Row:
    reference, ours = (f"{size / median(run[each] for run in runs) / 1e6:.0f} MB/s" for each in (0, number))
    ratio = median(run[0] / run[number] for run in runs)
    return Row(what, f"{reference} (skopeo)", ours, f"{ratio:.2f}", "700 MB/s, at least 2" if number == 1 else "-")


def _run_each(directory: Path) -> tuple[float, ...]:
    """Return the seconds that skopeo takes, and ours without verification and with it."""
    source, target, recipient = f"oci:{directory}/source:x", f"oci:{directory}/target:x", f"jwe:{directory}/key.pub"
    ours = [str(PIP_PROGRAM), "image", "encrypt", source, target, "--recipient", recipient]
    skopeo = ["skopeo", "--insecure-policy", "copy", "--quiet", "--encryption-key", recipient, source, target]
    return tuple(_seconds(directory / "target", command) for command in (skopeo, [*ours, "--no-verify"], ours))


def _seconds(target: Path, command: list[str]) -> float:
    shutil.rmtree(target, ignore_errors=True)
    started = perf_counter()
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = perf_counter() - started
    if result.returncode:
        raise RunError(f"{command[0]} ended with status {result.returncode}: {result.stderr.strip()}")
    return seconds


def _write_layout(directory: Path, size: int) -> None:
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True)
    digest, block = hashlib.sha256(), hashlib.shake_256(b"layer").digest(MIB)
    with (blobs / "layer").open("wb") as file:
        for _ in range(size // MIB):
            digest.update(block)
            file.write(block)
    (blobs / "layer").rename(blobs / digest.hexdigest())
    layer = {"mediaType": _TAR, "digest": f"sha256:{digest.hexdigest()}", "size": size}
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}}
    manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": _add(blobs, config, _CONFIG), "layers": [layer]}
    entry = {**_add(blobs, manifest, _MANIFEST), "annotations": _REFERENCE}
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')


def _add(blobs: Path, value: object, media_type: str) -> dict[str, object]:
    data = json.dumps(value).encode()
    digits = hashlib.sha256(data).hexdigest()
    (blobs / digits).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digits}", "size": len(data)}


def _write_key(path: Path) -> None:
    key = rsa.generate_private_key(65537, 2048).public_key()
    path.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
