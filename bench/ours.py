"""What is measured of ours alone, or beside programs other than the decoders: cells of rows of a second table."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from bench.decoders import SMALL_BYTES, Extent
from bench.figures import size_text
from bench.layers import MANIFEST, make_layer, private_pem, public_pem, rsa_key, write_layout
from bench.process import ciphertext
from bench.programs import MIB, PACKAGE, PIP, PIP_PROGRAM, REFERENCE, Layer, RunError, package_tree, run
from decoder.layer.payload import Payload, build_payload, parse_payload
from decoder.node.containerd.contentstore import BLOBS

HEADER = "| what | reference | ours | ratio |\n| --- | --- | --- | --- |"
Rows = Iterator[Sequence[str]]
_BLOCK = bytes(256 * 1024)  # stays in the processor's cache


def instructions(programs: Mapping[str, Path], _extent: Extent) -> Rows:
    """Count the instructions of a small layer without an agent, which do not depend on other load.

    valgrind's processor has no instructions for SHA-256, so the figure of a large layer would mean nothing.
    """
    launcher = package_tree() / "usr/lib/ctd-decoder/bin/ctd-decoder"  # what decrypts if there is no agent
    layer = make_layer(SMALL_BYTES)._replace(environment={"CTD_DECODER_AGENT": "off"})
    reference = _instructions(programs[REFERENCE], layer)
    for name, program in ((PACKAGE, launcher), (PIP, programs[PIP])):
        count = _instructions(program, layer)
        what = f"instructions of a {SMALL_BYTES}-byte layer, {name}, without an agent"
        yield what, f"{reference:.1f} million", f"{count:.1f} million", f"{count / reference:.2f}"


def _instructions(program: Path, layer: Layer) -> float:
    with TemporaryDirectory() as directory:
        options = ["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null", "--trace-children=yes"]
        run(Path("/usr/bin/valgrind"), layer, *options, f"--log-file={directory}/%p", str(program))
        logs = "".join(log.read_text() for log in Path(directory).iterdir())
    return sum(int(count.replace(",", "")) for count in re.findall(r"I +refs: +([\d,]+)", logs)) / 1e6


def keys(_programs: Mapping[str, Path], extent: Extent) -> Rows:
    """Measure what other files and other keys cost in the directory of the key that opens the layer."""
    layer = _without_key(make_layer(SMALL_BYTES))
    with TemporaryDirectory() as alone, TemporaryDirectory() as files, TemporaryDirectory() as others:
        for number in range(200):
            Path(files, f"a{number}.txt").write_text("not a key\n" * 100)
        for number in range(20):
            Path(others, f"a{number}.pem").write_bytes(private_pem(rsa.generate_private_key(65537, 2048)))
        for directory in (alone, files, others):
            Path(directory, "z.pem").write_bytes(private_pem(rsa_key()))
        for what, directory, count in (("a file that is not a key", files, 200), ("another RSA-2048 key", others, 20)):
            ways = [(layer, ["--decryption-keys-path", each]) for each in (alone, directory)]
            yield f"{what}, in the keys directory", "-", f"{_extra(ways, extent.rounds) / count * 1e3:.3f} ms", "-"


def store(_programs: Mapping[str, Path], extent: Extent) -> Rows:
    """Measure what a look-up costs in a content store of 10,000 blobs, if a layer has no payload."""
    layer, blob = make_layer(SMALL_BYTES), b"".join(ciphertext(SMALL_BYTES))
    descriptor = parse_payload(layer.payload).descriptor
    listed = {"mediaType": descriptor.media_type, "annotations": descriptor.annotations, "size": len(blob),
              "digest": f"sha256:{hashlib.sha256(blob).hexdigest()}"}  # fmt: skip
    image = [json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "layers": [listed]}).encode(), blob]
    others = [hashlib.sha256(b"%d" % number).digest() for number in range(10_000)]
    for where, blobs in (("growing", [*others, *image]), ("used again", [*image, *others, *image])):
        with TemporaryDirectory() as directory:
            Path(directory, "key.pem").write_bytes(private_pem(rsa_key()))
            _commit(Path(directory, "root"), blobs)
            options = ["--decryption-keys-path", directory, "--content-store", f"{directory}/root"]
            ways = [(each, options) for each in (_without_key(layer), layer._replace(payload=b""))]
            cost = f"{_extra(ways, extent.rounds) * 1e3:.1f} ms"
        yield f"look-up in a store of 10,000 blobs, inode numbers {where}", "-", cost, "-"


def _without_key(layer: Layer) -> Layer:
    return layer._replace(payload=build_payload(Payload({}, parse_payload(layer.payload).descriptor)))


def _extra(ways: Sequence[tuple[Layer, list[str]]], rounds: int) -> float:
    """Return how many seconds more the second of two ways takes, each a layer and options."""
    for layer, options in ways:
        run(PIP_PROGRAM, layer, *options, check_bytes=True)
    taken = [[run(PIP_PROGRAM, layer, *options).wall for layer, options in ways] for _ in range(rounds)]
    return median(second - first for first, second in taken)


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


# Options of `image encrypt`, and how often it digests and enciphers each byte: the digest of the source, the HMAC and
# the digest of the target; if it is read back, its HMAC and the digest of the plain layer again.
_ENCRYPT = {"not verified": (["--no-verify"], 3, 1), "verified": ([], 5, 2)}


def encrypt(_programs: Mapping[str, Path], extent: Extent) -> Rows:
    """Encrypt an image of one layer from one OCI layout to another, beside skopeo; TMPDIR says on which disk.

    The bound is what the cores can do at that moment if they only digest and encipher: no copies, no disk.
    """
    size = min(512 * MIB, extent.largest)
    rounds: dict[str, list[tuple[float, float, float]]] = {what: [] for what in _ENCRYPT}
    with TemporaryDirectory() as directory:
        write_layout(Path(directory, "source"), [repeat(hashlib.shake_256(b"layer").digest(MIB), size // MIB)])
        Path(directory, "key.pub").write_bytes(public_pem(rsa_key()))
        target, recipient = Path(directory, "target"), f"jwe:{directory}/key.pub"
        places = [f"oci:{directory}/source:x", f"oci:{target}:x"]
        skopeo = ["skopeo", "--insecure-policy", "copy", "--quiet", "--encryption-key", recipient, *places]
        ours = [str(PIP_PROGRAM), "image", "encrypt", *places, "--recipient", recipient]
        for _ in range(3):
            theirs = _seconds(target, skopeo)
            for what, (options, digests, ciphers) in _ENCRYPT.items():
                bound = size * (digests * _seconds_per_byte(_digest) + ciphers * _seconds_per_byte(_encipher))
                rounds[what].append((theirs, _seconds(target, [*ours, *options]), bound))
    for what, each in rounds.items():
        speeds = [f"{size / median(seconds) / 1e6:.0f} MB/s" for seconds in zip(*each, strict=True)]
        share, ratio = median(least / own for _, own, least in each), median(theirs / own for theirs, own, _ in each)
        measured = f"{speeds[1]}; {share:.2f} of the bound, {speeds[2]}"
        yield f"{size_text(size)} layer, image encrypt, {what}", f"{speeds[0]} (skopeo)", measured, f"{ratio:.2f}"


def _seconds(target: Path, command: list[str]) -> float:
    shutil.rmtree(target, ignore_errors=True)
    started = time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RunError(f"{command[0]} ended with status {result.returncode}: {result.stderr.strip()}")
    return time.perf_counter() - started


def _seconds_per_byte(work: Callable[[int], None]) -> float:
    """Measure work that all cores do at the same time; OpenSSL releases the GIL."""
    cores, blocks = len(os.sched_getaffinity(0)), 1000
    with ThreadPoolExecutor(cores) as pool:
        started = time.perf_counter()
        list(pool.map(work, [blocks] * cores))
        return (time.perf_counter() - started) / (cores * blocks * len(_BLOCK))


def _digest(blocks: int) -> None:
    digest = hashlib.sha256()
    for _ in range(blocks):
        digest.update(_BLOCK)


def _encipher(blocks: int) -> None:
    cipher, output = Cipher(algorithms.AES(bytes(32)), modes.CTR(bytes(16))).encryptor(), bytearray(len(_BLOCK) + 15)
    for _ in range(blocks):
        cipher.update_into(_BLOCK, output)
