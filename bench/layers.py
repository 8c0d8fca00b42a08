"""Encrypted layers and images to measure with. The payload of a layer has its key."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from bench.process import ciphertext
from bench.programs import ROOT, SECONDS, Layer, RunError, serving
from decoder.keywrap import jwe, pkcs7
from decoder.layer.annotations import ENCRYPTED, OCI_TAR, PrivateOptions, build_annotations, build_private_options
from decoder.layer.payload import Descriptor, Payload, build_payload
from decoder.provider import create

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_KEY, _NONCE = bytes(range(32)), bytes(range(16))
# Of the `cmd` provider: its wrapped key is the private options themselves, so it takes next to no time of its own.
_SED = r's/.*"annotation": *"([^"]*)".*/{"keyunwrapresults":{"optsdata":"\1"}}/'


class Wrapped(NamedTuple):
    """A wrapped key for an annotation, the parameters of the payload that open it, and variables for the decoder."""

    annotation: str
    key: bytes
    parameters: Mapping[str, list[bytes]] = {}
    environment: Mapping[str, str] = {}


Wrap = Callable[[bytes], Wrapped]
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


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


def jwe_rsa(options: bytes) -> Wrapped:
    """Wrap to an RSA-2048 key."""
    return _jwe(rsa_key(), options)


def make_layer(size: int, wrap: Wrap = jwe_rsa) -> Layer:
    """Build the layer whose ciphertext is `bench.process.ciphertext(size)`."""
    hmac, plain = _digests(size)
    wrapped = wrap(build_private_options(PrivateOptions(_KEY, _NONCE, f"sha256:{plain}")))
    descriptor = Descriptor(OCI_TAR + ENCRYPTED, build_annotations(hmac, {wrapped.annotation: [wrapped.key]}))
    return Layer(size, build_payload(Payload(dict(wrapped.parameters), descriptor)), plain, wrapped.environment)


@contextmanager
def schemes() -> Iterator[dict[str, Wrap]]:
    """Yield every scheme by its name in the table; a keyprovider serves meanwhile."""
    with TemporaryDirectory() as name, local_provider() as (wrap, target):
        config = Path(name, "keyproviders.conf")
        providers = {"command": {"cmd": {"path": "/bin/sed", "args": ["-E", _SED]}}, "server": {"grpc": target}}
        config.write_text(json.dumps({"key-providers": providers}))
        environment = {"OCICRYPT_KEYPROVIDER_CONFIG": str(config)}
        yield {
            "JWE RSA": jwe_rsa,
            "JWE EC": partial(_jwe, ec.generate_private_key(ec.SECP256R1())),
            "PKCS#7": _pkcs7,
            "OpenPGP": _pgp(Path(name, "gnupg")),
            "`cmd` provider": lambda options: Wrapped("provider.command", options, environment=environment),
            "`grpc` provider": lambda options: Wrapped("provider.server", wrap(options), environment=environment),
        }


@contextmanager
def local_provider() -> Iterator[tuple[Callable[[bytes], bytes], str]]:
    """Run `keyprovider serve --provider local`; yield what wraps for it, and the address where it listens.

    Raises:
        RunError: it does not start, or does not end with status 0.
    """
    with TemporaryDirectory() as name:
        key = Path(name, "image.key")
        key.touch(0o600)
        key.write_bytes(os.urandom(32))
        program = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "decoder"]
        arguments = ["keyprovider", "serve", "--provider", "local", "--key", str(key), "--listen", "127.0.0.1:0"]
        with serving([*program, *arguments], "listening on ") as (server, address):
            yield partial(create("local", {"key": str(key)}).wrap, parameters=[]), address.split()[0]
            server.terminate()
            if server.wait(SECONDS):
                raise RunError(f"the server ended with status {server.returncode}")


def write_layout(directory: Path, layers: Iterable[Iterable[bytes]], diff_ids: Sequence[str] = ()) -> None:
    """Write an image of one architecture, each layer given in blocks, as the OCI layout `oci:DIRECTORY:x`."""
    blobs = directory / "blobs/sha256"
    blobs.mkdir(parents=True)

    def add(media_type: str, blocks: Iterable[bytes]) -> dict[str, Any]:
        digest, size = sha256(), 0
        with (blobs / "new").open("wb") as file:
            for block in blocks:
                digest.update(block)
                size += file.write(block)
        (blobs / "new").rename(blobs / digest.hexdigest())
        return {"mediaType": media_type, "digest": f"sha256:{digest.hexdigest()}", "size": size}

    listed = [add(f"{OCI_TAR}+gzip", layer) for layer in layers]
    rootfs = {"type": "layers", "diff_ids": diff_ids or [each["digest"] for each in listed]}
    config = add(_CONFIG, [json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode()])
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": listed}
    named = {
        **add(MANIFEST, [json.dumps(manifest).encode()]),
        "annotations": {"org.opencontainers.image.ref.name": "x"},
    }
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')


@cache
def _digests(size: int) -> tuple[bytes, str]:
    """Return the HMAC of the ciphertext, and the SHA-256 of the plaintext."""
    hmac, plain = HMAC(_KEY, hashes.SHA256()), sha256()
    cipher = Cipher(algorithms.AES(_KEY), modes.CTR(_NONCE)).decryptor()
    for block in ciphertext(size):
        hmac.update(block)
        plain.update(cipher.update(block))
    return hmac.finalize(), plain.hexdigest()


def _private(key: PrivateKey) -> dict[str, list[bytes]]:
    return {"privkeys": [private_pem(key)], "privkeys-passwords": [b""]}


def _jwe(key: PrivateKey, options: bytes) -> Wrapped:
    return Wrapped("jwe", jwe.wrap(options, [public_pem(key)]), _private(key))


def _pkcs7(options: bytes) -> Wrapped:
    certificate = _certificate()
    return Wrapped("pkcs7", pkcs7.wrap(options, [certificate]), {**_private(rsa_key()), "x509s": [certificate]})


@cache
def _certificate() -> bytes:
    command = ["openssl", "req", "-x509", "-key", "/dev/stdin", "-subj", "/CN=bench", "-outform", "DER"]
    return subprocess.run(command, input=private_pem(rsa_key()), capture_output=True, check=True).stdout


def _pgp(home: Path) -> Wrap:
    """Generate a key with GnuPG, which later encrypts to it."""
    home.mkdir(0o700)
    batch = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", "", "--pinentry-mode", "loopback"]

    def gpg(*arguments: str, data: bytes = b"") -> bytes:
        return subprocess.run([*batch, *arguments], input=data, capture_output=True, check=True).stdout

    gpg("--quick-generate-key", "bench", "rsa2048", "encrypt", "never")
    parameters = {"gpg-privatekeys": [gpg("--export-secret-keys")], "gpg-privatekeys-passwords": [b""]}
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)
    encrypt = partial(gpg, "--trust-model", "always", "--recipient", "bench", "--encrypt")
    return lambda options: Wrapped("pgp", encrypt(data=options), parameters)
