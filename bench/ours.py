"""What is measured of ours alone, or beside other programs than the reference decoder: a row of a table for each."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from bench.decoders import PIP, PIP_PROGRAM, REFERENCE, package_tree
from bench.layers import SMALL_BYTES, keyprovider, make_layer, private_pem, public_pem, rsa_key
from bench.process import ciphertext
from bench.run import MIB, Layer, RunError, run, size_text
from decoder.keys.directory import add_directory
from decoder.keys.keyring import DecryptConfig, Keyring
from decoder.keywrap import jwe
from decoder.layer.payload import Payload, build_payload, parse_payload
from decoder.node.containerd.contentstore import BLOBS
from decoder.provider import create
from decoder.provider.client import protocol

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_TAR = "application/vnd.oci.image.layer.v1.tar+gzip"
_SECONDS = 60.0


class Row(NamedTuple):
    """A row of the table."""

    what: str
    reference: str
    ours: str
    ratio: str = "-"

    def __str__(self) -> str:
        return f"| {' | '.join(self)} |"


def instructions(programs: Mapping[str, Path]) -> Iterator[Row]:
    """Count the instructions of a small layer, which do not depend on what else the machine does.

    The package's program is the one that decrypts, without an agent. valgrind's processor has no instructions for
    SHA-256, so a large layer's number would say nothing.
    """
    launcher = package_tree() / "usr/lib/ctd-decoder/bin/ctd-decoder"
    layer = make_layer(SMALL_BYTES)._replace(environment={"CTD_DECODER_AGENT": "off"})
    reference = _instructions(programs[REFERENCE], layer)
    for name, program in (("package", launcher), (PIP, programs[PIP])):
        count = _instructions(program, layer)
        what = f"instructions of a {SMALL_BYTES}-byte layer, {name}, without an agent"
        yield Row(what, f"{reference:.1f} million", f"{count:.1f} million", f"{count / reference:.2f}")


def _instructions(program: Path, layer: Layer) -> float:
    with TemporaryDirectory() as directory:
        arguments = ["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null", "--trace-children=yes",
                     f"--log-file={directory}/%p", str(program)]  # fmt: skip
        run(Path("/usr/bin/valgrind"), layer, arguments=arguments)
        logs = "".join(log.read_text() for log in Path(directory).iterdir())
    return sum(int(count.replace(",", "")) for count in re.findall(r"I +refs: +([\d,]+)", logs)) / 1e6


def keys_directory() -> Iterator[Row]:
    """Measure a directory of 200 files, 20 of them RSA-2048 keys, the one that fits last."""
    keys = [rsa.generate_private_key(65537, 2048) for _ in range(20)]
    wrapped = jwe.wrap(os.urandom(200), [public_pem(keys[-1])])
    oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303 - RFC 7518 §4.3
    reading, trying = [], []
    with TemporaryDirectory() as directory:
        for number in range(180):
            Path(directory, f"a{number}.txt").write_text("not a key\n" * 100)
        for number, key in enumerate(keys):
            Path(directory, f"z{number:02}.pem").write_bytes(private_pem(key))
        for _ in range(15):
            keyring, started = Keyring(), time.perf_counter()
            add_directory(keyring, directory)
            read = time.perf_counter()
            if jwe.unwrap(wrapped, DecryptConfig(keyring), lambda _key, _reason: None) is None:
                raise RunError("no key of the directory opens the wrapped key")
            reading.append((read - started) / 200)
            trying.append((time.perf_counter() - read) / 20)
    texts = [key.public_key().encrypt(b"x", oaep) for key in keys]
    for _ in range(2):
        started = time.perf_counter()
        for key, text in zip(keys, texts, strict=True):
            key.decrypt(text, oaep)
        alone = (time.perf_counter() - started) / len(keys)
    yield Row("a file in the keys directory that is not a key", "-", f"{median(reading) * 1e3:.3f} ms")
    what = f"a candidate RSA-2048 key there (its RSA operation alone: {alone * 1e3:.2f} ms)"
    yield Row(what, "-", f"{median(trying) * 1e3:.2f} ms")


def store(pairs: int) -> Iterator[Row]:
    """Measure how much longer a layer takes without a payload, in a content store of 10,000 blobs."""
    layer = make_layer(SMALL_BYTES)
    payload = parse_payload(layer.payload)
    lines = [hashlib.sha256(b"%d" % number).digest() for number in range(10_000)]
    blob = b"".join(ciphertext(layer.size))
    media_type, annotations, _ = payload.descriptor
    described = {"mediaType": media_type, "digest": _digest(blob), "size": len(blob), "annotations": annotations}
    image = [_json({"schemaVersion": 2, "mediaType": _MANIFEST, "layers": [described]}), blob]
    with_payload = layer._replace(payload=build_payload(Payload({}, payload.descriptor)))
    for where, order in (("inode numbers growing", [lines, image]), ("inode numbers used again", [image, lines])):
        with TemporaryDirectory() as directory:
            Path(directory, "keys").mkdir()
            Path(directory, "keys/private.pem").write_bytes(private_pem(rsa_key()))
            for blobs in order:
                _commit(Path(directory, "root"), blobs)
            for path in _commit(Path(directory, "root"), image):
                os.utime(path)
            options = ["--decryption-keys-path", f"{directory}/keys", "--content-store", f"{directory}/root"]
            costs = []
            for number in range(pairs + 1):
                runs = [run(PIP_PROGRAM, each, check_bytes=not number, arguments=options).wall
                        for each in (with_payload, layer._replace(payload=b""))]  # fmt: skip
                costs.append(runs[1] - runs[0])
        yield Row(f"look-up in a store of 10,000 blobs, {where}", "-", f"{median(costs[1:]) * 1e3:.1f} ms")


def _commit(root: Path, blobs: Sequence[bytes]) -> list[Path]:
    """Put blobs into a store as containerd does: each from a directory of its own, which decides its inode number."""
    (root / BLOBS).mkdir(parents=True, exist_ok=True)
    paths = [root / BLOBS / hashlib.sha256(blob).hexdigest() for blob in blobs]
    for path, blob in zip(paths, blobs, strict=True):
        if not path.exists():
            (root / "ingest").mkdir()
            (root / "ingest/data").write_bytes(blob)
            (root / "ingest/data").rename(path)
            (root / "ingest").rmdir()
    return paths


_OPTIONS = b'{"symkey":"%b","digest":"sha256:%b","cipheroptions":{"nonce":"%b"}}' % (b"A" * 44, b"0" * 64, b"A" * 24)


def keyprovider_load(calls: int = 2000, clients: int = 4) -> Iterator[Row]:
    """Have clients, each a thread with a connection of its own, unwrap again and again.

    Raises:
        RunError: a call failed, or the server did.
    """
    import grpc

    with TemporaryDirectory() as directory:
        key = Path(directory, "image.key")
        key.touch(0o600)
        key.write_bytes(os.urandom(32))
        annotation = create("local", {"key": str(key)}).wrap(_OPTIONS, [])
        request = protocol.build_message(protocol.build_request("keyunwrap", annotation, "bench", []))

        def ask(target: str) -> list[float]:
            options = [("grpc.use_local_subchannel_pool", 1)]
            with grpc.insecure_channel(target, options) as channel:
                unwrap: Any = channel.unary_unary("/keyprovider.KeyProviderService/UnWrapKey")
                return [_timed(lambda: unwrap(request, timeout=_SECONDS)) for _ in range(calls // clients)]

        with keyprovider(key, Path(directory, "log")) as target, ThreadPoolExecutor(clients) as pool:
            started = time.perf_counter()
            try:
                times = sorted(each for list_ in pool.map(ask, [target] * clients) for each in list_)
            except grpc.RpcError as error:
                raise RunError(f"a call failed: {error}") from error
            wall = time.perf_counter() - started
    p50, p99 = (times[int(len(times) * share)] * 1e3 for share in (0.50, 0.99))
    what = f"`keyprovider serve`, provider local: {len(times)} unwraps by {clients} clients"
    yield Row(what, "-", f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, {len(times) / wall:.0f}/s")


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


# What `image encrypt` does with each byte. Digested are the source and, as HMAC and digest, the target; then, if it is
# read back, its HMAC and the plain layer again.
_ENCRYPT = {"not verified": (["--no-verify"], 3, 1), "verified": ([], 5, 2)}
_BLOCK = bytes(256 * 1024)
_BLOCKS = 1000


def encrypt(size: int, pairs: int = 3) -> Iterator[Row]:
    """Encrypt an image of one layer from one OCI layout to another, beside skopeo; TMPDIR says on which disk.

    The bound is what the cores could do at that moment if they did nothing but digest and encipher: no copy, no page of
    the target, no disk.
    """
    with TemporaryDirectory() as directory:
        _write_layout(Path(directory, "source"), size)
        Path(directory, "key.pub").write_bytes(public_pem(rsa_key()))
        target = Path(directory, "target")
        places = [f"oci:{directory}/source:x", f"oci:{target}:x"]
        recipient = f"jwe:{directory}/key.pub"
        skopeo = ["skopeo", "--insecure-policy", "copy", "--quiet", "--encryption-key", recipient, *places]
        ours = [str(PIP_PROGRAM), "image", "encrypt", *places, "--recipient", recipient]
        seconds: dict[str, list[tuple[float, float, float]]] = {what: [] for what in _ENCRYPT}
        for _ in range(pairs):
            theirs = _seconds(target, skopeo)
            for what, (options, digests, ciphers) in _ENCRYPT.items():
                bound = size * (digests / _rate(_digest_blocks) + ciphers / _rate(_encipher_blocks))
                seconds[what].append((theirs, _seconds(target, [*ours, *options]), bound))
    for what, rounds in seconds.items():
        rates = [f"{size / median(each) / 1e6:.0f} MB/s" for each in zip(*rounds, strict=True)]
        share = median(bound / own for _, own, bound in rounds)
        ratio = median(theirs / own for theirs, own, _ in rounds)
        measured = f"{rates[1]}; {share:.2f} of the bound, {rates[2]}"
        yield Row(f"{size_text(size)} layer, image encrypt, {what}", f"{rates[0]} (skopeo)", measured, f"{ratio:.2f}")


def _rate(work: Callable[[], None]) -> float:
    """Measure what all cores together do, in bytes per second; OpenSSL releases the GIL."""
    cores = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(cores) as pool:
        started = time.perf_counter()
        for done in [pool.submit(work) for _ in range(cores)]:
            done.result()
        return cores * _BLOCKS * len(_BLOCK) / (time.perf_counter() - started)


def _digest_blocks() -> None:
    digest = hashlib.sha256()
    for _ in range(_BLOCKS):
        digest.update(_BLOCK)


def _encipher_blocks() -> None:
    cipher = Cipher(algorithms.AES(bytes(32)), modes.CTR(bytes(16))).encryptor()
    output = bytearray(len(_BLOCK) + 15)
    for _ in range(_BLOCKS):
        cipher.update_into(_BLOCK, output)


def _seconds(target: Path, command: list[str]) -> float:
    shutil.rmtree(target, ignore_errors=True)
    started = time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RunError(f"{command[0]} ended with status {result.returncode}: {result.stderr.strip()}")
    return time.perf_counter() - started


def _write_layout(directory: Path, size: int) -> None:
    block = hashlib.shake_256(b"layer").digest(MIB)
    write_layout(directory, [(block for _ in range(size // MIB))])


def write_layout(directory: Path, layers: Iterable[Iterable[bytes]], diff_ids: Sequence[str] = ()) -> None:
    """Write an image of one architecture, each layer given in blocks, as the OCI layout `oci:DIRECTORY:x`."""
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True)
    descriptors: list[dict[str, Any]] = []
    for layer in layers:
        digest, size = hashlib.sha256(), 0
        with (blobs / "layer").open("wb") as file:
            for block in layer:
                digest.update(block)
                size += file.write(block)
        (blobs / "layer").rename(blobs / digest.hexdigest())
        descriptors.append({"mediaType": _TAR, "digest": f"sha256:{digest.hexdigest()}", "size": size})
    rootfs = {"type": "layers", "diff_ids": diff_ids or [each["digest"] for each in descriptors]}
    config = _add(blobs, {"architecture": "amd64", "os": "linux", "rootfs": rootfs}, _CONFIG)
    manifest = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": config, "layers": descriptors}
    entry = {**_add(blobs, manifest, _MANIFEST), "annotations": {"org.opencontainers.image.ref.name": "x"}}
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')


def _add(blobs: Path, value: object, media_type: str) -> dict[str, object]:
    data = _json(value)
    (blobs / hashlib.sha256(data).hexdigest()).write_bytes(data)
    return {"mediaType": media_type, "digest": _digest(data), "size": len(data)}


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
