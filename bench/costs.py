"""What else matters: instructions, memory, files beside the key, the look-up of a descriptor, `image encrypt`."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory

from cryptography.hazmat.primitives.asymmetric import rsa

from bench.figures import Figure, size_text
from bench.layers import SMALL_BYTES, make_layer, private_pem, public_pem, rsa_key, write_image
from bench.process import ciphertext
from bench.programs import MIB, PACKAGE, PACKAGE_TREE, PIP, REFERENCE, SECONDS, Bench, Layer, run, seconds, stop_agent
from decoder.formats.mediatypes import OCI_MANIFEST
from decoder.layer.payload import Payload, build_payload, parse_payload
from decoder.node.containerd.contentstore import BLOBS

_NO_AGENT = {"CTD_DECODER_AGENT": "off"}
_DECODERS = 64
_RESTING_SECONDS = 12.0  # an agent that has had nothing to do for that time has given back what memory it can


def instructions(bench: Bench) -> Iterator[Figure]:
    """Count the instructions of a small layer without an agent, which do not depend on other load.

    valgrind's processor has no instructions for SHA-256, so the figure of a large layer would mean nothing.
    """
    launcher = PACKAGE_TREE / "lib/ctd-decoder/bin/ctd-decoder"  # what decrypts if there is no agent
    layer = make_layer(SMALL_BYTES)._replace(environment=_NO_AGENT)
    options = ["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null", "--trace-children=yes"]
    runs = {}
    for name, program in {**bench.programs, PACKAGE: launcher}.items():
        if name in (REFERENCE, PACKAGE, PIP):
            with TemporaryDirectory() as directory:
                run(Path("/usr/bin/valgrind"), layer, *options, f"--log-file={directory}/%p", str(program))
                logs = "".join(log.read_text() for log in Path(directory).iterdir())
            counts = re.findall(r"I +refs: +([\d,]+)", logs)
            runs[name] = [float(sum(int(count.replace(",", "")) for count in counts))]
    yield Figure("instructions", f"instructions of a {SMALL_BYTES}-byte layer, without an agent", "instructions", runs)


def memory(bench: Bench) -> Iterator[Figure]:
    """Measure an idle agent, and decoders that wait for the second half of their layers.

    Memory is the proportional set size (Pss), which counts once what processes share.
    """
    stop_agent()
    run(bench.programs[PACKAGE], make_layer(SMALL_BYTES))
    time.sleep(_RESTING_SECONDS)
    yield Figure("memory", "memory of an idle agent", "memory", {PACKAGE: [_pss(_agent(bench.programs[PACKAGE]))]})
    each = {name: [_of_many(bench.programs[name])] for name in (REFERENCE, PACKAGE)}
    stop_agent()
    yield Figure("memory", f"memory of {_DECODERS} decoders at once, per process, agent counted in", "memory", each)


def _of_many(program: Path) -> float:
    """Start decoders, give each half of its layer, and return the memory of one in bytes."""
    size, feeds, decoders = 4 * MIB, [], []
    with NamedTemporaryFile() as payload:
        payload.write(make_layer(size).payload)
        payload.flush()
        for _ in range(_DECODERS):
            stdin, feed = os.pipe()
            command: list[str | Path] = ["sh", "-c", 'exec "$0" 3< "$1" > /dev/null 2>&1', program, payload.name]
            decoders.append(subprocess.Popen(command, stdin=stdin))
            feeds.append(feed)
            os.close(stdin)
        signal.alarm(int(SECONDS))  # ends the bench if a decoder does not read its layer
        for feed in feeds:
            os.write(feed, b"".join(ciphertext(size // 2)))
        signal.alarm(0)
        time.sleep(1)  # then they have taken what is in the pipes
        taken = _pss([*(decoder.pid for decoder in decoders), *_agent(program)])
    for decoder, feed in zip(decoders, feeds, strict=True):
        os.close(feed)
        decoder.wait(SECONDS)
    return taken / _DECODERS


def _agent(program: Path) -> list[int]:
    """List the processes of the agents; the reference has none."""
    asked = subprocess.run([program, "agent", "status", "--json"], capture_output=True, check=False)
    agents = [int(each["pid"]) for each in json.loads(asked.stdout or b"[]")]
    children = (Path(f"/proc/{pid}/task/{pid}/children").read_text().split() for pid in agents)
    return agents + [int(child) for each in children for child in each]


def _pss(processes: Iterable[int]) -> float:
    """Return what processes take, in bytes; one that has ended takes nothing."""
    total = 0
    for process in processes:
        with suppress(OSError):
            text = Path(f"/proc/{process}/smaps_rollup").read_text()
            total += int(text.partition("\nPss:")[2].split()[0]) * 1024
    return float(total)


def keys(bench: Bench) -> Iterator[Figure]:
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
            runs = [extra / count for extra in _extra(bench, ways)]
            yield Figure("keys", f"{what}, in the keys directory", "time", {PIP: runs})


def store(bench: Bench) -> Iterator[Figure]:
    """Measure what a look-up costs in a content store of 10,000 blobs, if a layer has no payload."""
    layer, blob = make_layer(SMALL_BYTES), b"".join(ciphertext(SMALL_BYTES))
    descriptor = parse_payload(layer.payload).descriptor
    listed = {"mediaType": descriptor.media_type, "annotations": descriptor.annotations, "size": len(blob),
              "digest": f"sha256:{hashlib.sha256(blob).hexdigest()}"}  # fmt: skip
    image = [json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": [listed]}).encode(), blob]
    others = [hashlib.sha256(b"%d" % number).digest() for number in range(10_000)]
    for where, blobs in (("growing", [*others, *image]), ("used again", [*image, *others, *image])):
        with TemporaryDirectory() as directory:
            Path(directory, "key.pem").write_bytes(private_pem(rsa_key()))
            _commit(Path(directory, "root"), blobs)
            options = ["--decryption-keys-path", directory, "--content-store", f"{directory}/root"]
            extra = _extra(bench, [(_without_key(layer), options), (layer._replace(payload=b""), options)])
        yield Figure("store", f"look-up in a store of 10,000 blobs, inode numbers {where}", "time", {PIP: extra})


def _without_key(layer: Layer) -> Layer:
    return layer._replace(payload=build_payload(Payload({}, parse_payload(layer.payload).descriptor)))


def _extra(bench: Bench, ways: Sequence[tuple[Layer, list[str]]]) -> list[float]:
    """Return how many seconds more the second of two ways takes without an agent, each a layer and options."""
    ways = [(layer._replace(environment=_NO_AGENT), options) for layer, options in ways]
    for layer, options in ways:
        run(bench.programs[PIP], layer, *options, check_bytes=True)
    taken = ([run(bench.programs[PIP], layer, *options).wall for layer, options in ways] for _ in range(bench.rounds))
    return [second - first for first, second in taken]


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


def encrypt(bench: Bench) -> Iterator[Figure]:
    """Encrypt an image of one layer from one OCI layout to another, beside skopeo; TMPDIR says on which disk.

    The bound is what the cores can do at that moment if they only digest and encipher: no copies, no disk.
    """
    size = min(512 * MIB, bench.largest)
    rates: dict[str, dict[str, list[float]]] = {what: {REFERENCE: [], PIP: [], "bound": []} for what in _ENCRYPT}
    with TemporaryDirectory() as directory:
        write_image(Path(directory, "source"), [size])
        Path(directory, "key.pub").write_bytes(public_pem(rsa_key()))
        target, recipient = Path(directory, "target"), f"jwe:{directory}/key.pub"
        places: list[str | Path] = [f"oci:{directory}/source:x", f"oci:{target}:x"]
        skopeo = ["skopeo", "--insecure-policy", "copy", "--quiet", "--encryption-key", recipient, *places]
        ours = [bench.programs[PIP], "image", "encrypt", *places, "--recipient", recipient]
        for _ in range(bench.third()):
            digest, encipher = _openssl("sha256"), _openssl("aes-256-ctr")
            theirs = seconds(skopeo)
            for what, (options, digests, ciphers) in _ENCRYPT.items():
                shutil.rmtree(target)
                rates[what][PIP].append(size / seconds([*ours, *options]))
                rates[what][REFERENCE].append(size / theirs)
                rates[what]["bound"].append(1 / (digests / digest + ciphers / encipher))
            shutil.rmtree(target)
    for what, runs in rates.items():
        yield Figure("encrypt", f"{size_text(size)} layer, image encrypt, {what} (reference: skopeo)", "rate", runs)


def _openssl(algorithm: str) -> float:
    """Return how many bytes a second all cores together digest or encipher."""
    options = ["-multi", str(len(os.sched_getaffinity(0))), "-seconds", "1", "-elapsed", "-bytes", "262144", "-mr"]
    speed = subprocess.run(
        ["openssl", "speed", *options, "-evp", algorithm], capture_output=True, text=True, check=True
    )
    return float(speed.stdout.splitlines()[-1].split(":")[-1])
