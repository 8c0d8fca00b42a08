"""`image encrypt` from one OCI layout to another, beside skopeo: the same image, the same recipient.

The bound is what the cores could do at that moment if they did nothing but digest and encipher: no copy, no page of the
target, no disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bench.compare import GIB, MIB, Row, size_text
from bench.programs import PIP_PROGRAM
from bench.run import RunError

_TAR = "application/vnd.oci.image.layer.v1.tar+gzip"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_REFERENCE = {"org.opencontainers.image.ref.name": "x"}


_BLOCK = bytes(256 * 1024)
_BLOCKS = 1000


class _Case(NamedTuple):
    """A way to run ours: its options, and how often each byte is digested and enciphered."""

    what: str
    options: tuple[str, ...]
    digests: int
    ciphers: int
    target: str


# Digested are the source and, as HMAC and digest, the target; then, read back, its HMAC and the plain layer again.
_CASES = (
    _Case("not verified", ("--no-verify",), 3, 1, "700 MB/s, at least 2"),
    _Case("verified", (), 5, 2, "-"),
)


class _Round(NamedTuple):
    """The seconds that one case took: of skopeo, of ours, and of the bound."""

    skopeo: float
    ours: float
    bound: float


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
        rounds = [_run_each(directory, size) for _ in range(pairs)]
    return [_row(case, size, list(runs)) for case, runs in zip(_CASES, zip(*rounds, strict=True), strict=True)]


def _row(case: _Case, size: int, runs: list[_Round]) -> Row:
    skopeo, ours, bound = (f"{size / median(seconds) / 1e6:.0f} MB/s" for seconds in zip(*runs, strict=True))
    share = median(run.bound / run.ours for run in runs)
    ratio = median(run.skopeo / run.ours for run in runs)
    what = f"{size_text(size)} layer, image encrypt, {case.what}"
    return Row(what, f"{skopeo} (skopeo)", f"{ours}; {share:.2f} of the bound, {bound}", f"{ratio:.2f}", case.target)


def _run_each(directory: Path, size: int) -> list[_Round]:
    """Run skopeo, and ours in each case, with the bound of the same moment."""
    source, target, recipient = f"oci:{directory}/source:x", f"oci:{directory}/target:x", f"jwe:{directory}/key.pub"
    ours = [str(PIP_PROGRAM), "image", "encrypt", source, target, "--recipient", recipient]
    skopeo = ["skopeo", "--insecure-policy", "copy", "--quiet", "--encryption-key", recipient, source, target]
    reference = _seconds(directory / "target", skopeo)
    rounds = []
    for case in _CASES:
        per_byte = case.digests / _rate(_digest) + case.ciphers / _rate(_encipher)
        rounds.append(_Round(reference, _seconds(directory / "target", [*ours, *case.options]), size * per_byte))
    return rounds


def _rate(work: Callable[[], None]) -> float:
    """Measure what all cores together do, in bytes per second; OpenSSL lets go of the GIL."""
    cores = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(cores) as pool:
        started = perf_counter()
        for done in [pool.submit(work) for _ in range(cores)]:
            done.result()
        return cores * _BLOCKS * len(_BLOCK) / (perf_counter() - started)


def _digest() -> None:
    digest = hashlib.sha256()
    for _ in range(_BLOCKS):
        digest.update(_BLOCK)


def _encipher() -> None:
    cipher = Cipher(algorithms.AES(bytes(32)), modes.CTR(bytes(16))).encryptor()
    output = bytearray(len(_BLOCK) + 15)
    for _ in range(_BLOCKS):
        cipher.update_into(_BLOCK, output)


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
