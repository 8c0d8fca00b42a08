"""Encrypted layers and images to measure with. The payload of a layer has its key."""

import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from bench.process import ciphertext
from bench.programs import PIP_PROGRAM, Layer, serving
from decoder.keywrap import jwe, pkcs7
from decoder.layer.annotations import ENCRYPTED, OCI_TAR, PrivateOptions, build_annotations, build_private_options
from decoder.layer.payload import Descriptor, Payload, build_payload
from decoder.provider import create

SMALL_BYTES = 246
# The image of a published tutorial: a few large layers among many small ones, from the base image up.
IMAGE_BYTES = (54926871, 5153100, 10871687, 54566834, 196447011, 6290533, 16814102, 232, 2349255, 180, 8854882,
               540, 539, 832, 528, 526, 604, 191, 14298306, 322, 536)  # fmt: skip
_KEY, _NONCE = bytes(range(32)), bytes(range(16))
# Of the `cmd` provider: its wrapped key is the private options themselves, so it takes next to no time of its own.
_SED = r's/.*"annotation": *"([^"]*)".*/{"keyunwrapresults":{"optsdata":"\1"}}/'

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


class Scheme(NamedTuple):
    """A way to wrap a key, by its name in annotations; the parameters of a payload, and variables, that open it."""

    name: str
    wrap: Callable[[bytes], bytes]
    parameters: Mapping[str, list[bytes]] = {}
    environment: Mapping[str, str] = {}


@cache
def rsa_key() -> rsa.RSAPrivateKey:
    """Return one RSA-2048 key, generated at the first call."""
    return rsa.generate_private_key(65537, 2048)


def public_pem(key: PrivateKey) -> bytes:
    """Write the public half of a key."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def private_pem(key: PrivateKey) -> bytes:
    """Write a private key as PKCS#8."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def make_layer(size: int, scheme: Scheme | None = None) -> Layer:
    """Build the layer whose ciphertext is `bench.process.ciphertext(size)`; without a scheme its key is an RSA key."""
    scheme = scheme or _jwe(rsa_key())
    hmac, plain = _digests(size)
    wrapped = scheme.wrap(build_private_options(PrivateOptions(_KEY, _NONCE, f"sha256:{plain}")))
    descriptor = Descriptor(OCI_TAR + ENCRYPTED, build_annotations(hmac, {scheme.name: [wrapped]}))
    return Layer(size, build_payload(Payload(dict(scheme.parameters), descriptor)), plain, scheme.environment)


@contextmanager
def schemes() -> Iterator[dict[str, Scheme]]:
    """Yield every scheme by its name in the table; a keyprovider serves meanwhile."""
    with TemporaryDirectory() as name:
        key, config = Path(name, "image.key"), Path(name, "keyproviders.conf")
        key.touch(0o600)
        key.write_bytes(os.urandom(32))
        server = [PIP_PROGRAM, "keyprovider", "serve", "--provider", "local", "--key", key, "--listen", "127.0.0.1:0"]
        with serving(server, "listening on ") as (_, address):
            command = {"path": "/bin/sed", "args": ["-E", _SED]}
            providers = {"cmd": {"cmd": command}, "grpc": {"grpc": address.split()[0]}}
            config.write_text(json.dumps({"key-providers": providers}))
            environment = {"OCICRYPT_KEYPROVIDER_CONFIG": str(config)}
            local = partial(create("local", {"key": str(key)}).wrap, parameters=[])
            yield {
                "JWE RSA": _jwe(rsa_key()),
                "JWE EC": _jwe(ec.generate_private_key(ec.SECP256R1())),
                "PKCS#7": _pkcs7(rsa_key()),
                "OpenPGP": _pgp(Path(name, "gnupg")),
                "`cmd` provider": Scheme("provider.cmd", bytes, environment=environment),
                "`grpc` provider": Scheme("provider.grpc", local, environment=environment),
            }


def write_image(directory: Path, sizes: Iterable[int]) -> None:
    """Write an image whose layers have one file of random bytes each, as the OCI layout `oci:DIRECTORY:x`."""
    subprocess.run(["umoci", "init", "--layout", directory], check=True)
    subprocess.run(["umoci", "new", "--image", f"{directory}:x"], check=True)
    for size in sizes:
        with NamedTemporaryFile() as file:
            with tarfile.open(file.name, "w") as archive:
                member = tarfile.TarInfo(os.urandom(8).hex())
                member.size = size
                archive.addfile(member, io.BytesIO(os.urandom(size)))
            subprocess.run(["umoci", "raw", "add-layer", "--image", f"{directory}:x", file.name], check=True)


@cache
def _digests(size: int) -> tuple[bytes, str]:
    """Return the HMAC of the ciphertext, and the SHA-256 of the plaintext."""
    hmac, plain = HMAC(_KEY, hashes.SHA256()), hashlib.sha256()
    cipher = Cipher(algorithms.AES(_KEY), modes.CTR(_NONCE)).decryptor()
    for block in ciphertext(size):
        hmac.update(block)
        plain.update(cipher.update(block))
    return hmac.finalize(), plain.hexdigest()


def _private(key: PrivateKey) -> dict[str, list[bytes]]:
    return {"privkeys": [private_pem(key)], "privkeys-passwords": [b""]}


def _jwe(key: PrivateKey) -> Scheme:
    return Scheme("jwe", partial(jwe.wrap, recipients=[public_pem(key)]), _private(key))


def _pkcs7(key: PrivateKey) -> Scheme:
    command = ["openssl", "req", "-x509", "-key", "/dev/stdin", "-subj", "/CN=bench", "-outform", "DER"]
    certificate = subprocess.run(command, input=private_pem(key), capture_output=True, check=True).stdout
    wrap = partial(pkcs7.wrap, recipients=[certificate])
    return Scheme("pkcs7", wrap, {**_private(key), "x509s": [certificate]})


def _pgp(home: Path) -> Scheme:
    """Generate a key with GnuPG, which also encrypts to it."""
    home.mkdir(0o700)
    options = ["--homedir", str(home), "--batch", "--quiet", "--passphrase", "", "--pinentry-mode", "loopback"]

    def gpg(*arguments: str, data: bytes = b"") -> bytes:
        return subprocess.run(["gpg", *options, *arguments], input=data, capture_output=True, check=True).stdout

    gpg("--quick-generate-key", "bench", "rsa2048", "encrypt", "never")
    parameters = {"gpg-privatekeys": [gpg("--export-secret-keys")], "gpg-privatekeys-passwords": [b""]}
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)
    encrypt = partial(gpg, "--trust-model", "always", "--recipient", "bench", "--encrypt")
    return Scheme("pgp", lambda options: encrypt(data=options), parameters)
