"""How fast `image encrypt` encrypts an image of one layer from one OCI layout to another, beside skopeo."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.images.source import seconds, write_image
from bench.layers import public_pem, rsa_key
from bench.programs import MIB, PIP, REFERENCE, Bench
from bench.report.figures import Figure

# Options of `image encrypt`, and how often it digests and enciphers each byte: the digest of the source, the HMAC and
# the digest of the target; if it is read back, its HMAC and the digest of the plain layer again.
_ENCRYPT = {"not verified": (["--no-verify"], 3, 1), "verified": ([], 5, 2)}


def encrypt(bench: Bench) -> Iterator[Figure]:
    """Encrypt with each program in turn; TMPDIR says on which disk.

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
        for _ in range(bench.turns(3)):
            digest, encipher = _openssl("sha256"), _openssl("aes-256-ctr")
            theirs = seconds(skopeo)
            for what, (options, digests, ciphers) in _ENCRYPT.items():
                shutil.rmtree(target)
                rates[what][PIP].append(size / seconds([*ours, *options]))
                rates[what][REFERENCE].append(size / theirs)
                rates[what]["bound"].append(1 / (digests / digest + ciphers / encipher))
            shutil.rmtree(target)
    for what, runs in rates.items():
        yield Figure(f"{size // MIB} MiB layer, image encrypt, {what} (reference: skopeo)", "rate", runs)


def _openssl(algorithm: str) -> float:
    """Return how many bytes a second all cores together digest or encipher."""
    options = ["-multi", str(len(os.sched_getaffinity(0))), "-seconds", "1", "-elapsed", "-bytes", "262144", "-mr"]
    speed = subprocess.run(
        ["openssl", "speed", *options, "-evp", algorithm], capture_output=True, text=True, check=True
    )
    return float(speed.stdout.splitlines()[-1].split(":")[-1])
