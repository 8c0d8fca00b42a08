"""Encrypted layers to measure with, wrapped in every way that both programs read; the payload has the key."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from bench.process import ciphertext
from bench.run import Layer, RunError
from decoder.keywrap import jwe
from decoder.keywrap import pkcs7 as cms
from decoder.layer.annotations import ENCRYPTED, OCI_TAR, PrivateOptions, build_annotations, build_private_options
from decoder.layer.payload import Descriptor, Payload, build_payload
from decoder.provider import create

LAYER_KEY, LAYER_NONCE = bytes(range(32)), bytes(range(16))
SMALL_BYTES = 246
_COMMAND, _GRPC = "bench-command", "bench-grpc"
# The wrapped key is the private options as they are, so that the provider takes next to no time of its own.
_ANSWER = r's/.*"annotation": *"([^"]*)".*/{"keyunwrapresults":{"optsdata":"\1"}}/'
_SECONDS = 60.0


class Wrapped(NamedTuple):
    """Wrapped keys by scheme, what the payload brings along to open them, and variables that the decoder needs."""

    keys: dict[str, list[bytes]]
    parameters: dict[str, list[bytes]]
    environment: Mapping[str, str] = {}


Wrap = Callable[[bytes], Wrapped]


@cache
def rsa_key() -> rsa.RSAPrivateKey:
    """Make an RSA-2048 key, once."""
    return rsa.generate_private_key(65537, 2048)


def jwe_rsa(options: bytes) -> Wrapped:
    """Wrap to an RSA-2048 key."""
    return _jwe(rsa_key(), options)


def make_layer(size: int, wrap: Wrap = jwe_rsa) -> Layer:
    """Make the layer whose ciphertext is `bench.process.ciphertext(size)`."""
    hmac, plain = _digests(size)
    wrapped = wrap(build_private_options(PrivateOptions(LAYER_KEY, LAYER_NONCE, f"sha256:{plain}")))
    descriptor = Descriptor(OCI_TAR + ENCRYPTED, build_annotations(hmac, wrapped.keys))
    return Layer(size, build_payload(Payload(wrapped.parameters, descriptor)), plain, wrapped.environment)


@contextmanager
def schemes() -> Iterator[dict[str, Wrap]]:
    """Make ready all schemes, by the name that the table has for them; a keyprovider serves meanwhile."""
    with TemporaryDirectory() as name:
        key = Path(name, "image.key")
        key.touch(0o600)
        key.write_bytes(os.urandom(32))
        local = create("local", {"key": str(key)})
        with keyprovider(key, Path(name, "log")) as target:
            config = Path(name, "keyproviders.conf")
            command = {"cmd": {"path": "/bin/sed", "args": ["-E", _ANSWER]}}
            config.write_text(json.dumps({"key-providers": {_COMMAND: command, _GRPC: {"grpc": target}}}))
            environment = {"OCICRYPT_KEYPROVIDER_CONFIG": str(config)}
            yield {
                "JWE RSA": jwe_rsa,
                "JWE EC": partial(_jwe, ec.generate_private_key(ec.SECP256R1())),
                "PKCS#7": _pkcs7,
                "OpenPGP": _make_pgp(Path(name, "gnupg")),
                "`cmd` provider": lambda options: Wrapped({f"provider.{_COMMAND}": [options]}, {}, environment),
                "`grpc` provider": lambda options: Wrapped(
                    {f"provider.{_GRPC}": [local.wrap(options, [])]}, {}, environment
                ),
            }


@contextmanager
def keyprovider(key: Path, log: Path) -> Iterator[str]:
    """Run `keyprovider serve --provider local`, and yield where it listens.

    Raises:
        RunError: it does not start, or does not end with status 0.
    """
    command = [sys.executable, "-m", "decoder", "keyprovider", "serve", "--provider", "local", "--key", str(key)]
    with log.open("wb") as errors:
        server = subprocess.Popen([*command, "--listen", "127.0.0.1:0"], stdin=subprocess.DEVNULL, stderr=errors)
    try:
        deadline = time.monotonic() + _SECONDS
        while "listening on" not in log.read_text():
            if server.poll() is not None or time.monotonic() > deadline:
                raise RunError(f"the server did not start: {log.read_text()}")
            time.sleep(0.02)
        yield log.read_text().split()[-1]
        server.terminate()
        if server.wait(_SECONDS):
            raise RunError(f"the server ended with status {server.returncode}")
    finally:
        server.kill()
        server.wait()


@cache
def _digests(size: int) -> tuple[bytes, str]:
    """Return the HMAC of the ciphertext, and the SHA-256 of the plaintext."""
    hmac, plain = HMAC(LAYER_KEY, hashes.SHA256()), sha256()
    cipher = Cipher(algorithms.AES(LAYER_KEY), modes.CTR(LAYER_NONCE)).decryptor()
    for block in ciphertext(size):
        hmac.update(block)
        plain.update(cipher.update(block))
    return hmac.finalize(), plain.hexdigest()


def _jwe(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, options: bytes) -> Wrapped:
    return Wrapped({"jwe": [jwe.wrap(options, [public_pem(key)])]}, _private(key))


def public_pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    """Write the public half of a key."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def private_pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    """Write a private key as PKCS#8."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _private(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> dict[str, list[bytes]]:
    return {"privkeys": [private_pem(key)], "privkeys-passwords": [b""]}


def _pkcs7(options: bytes) -> Wrapped:
    recipient = _certificate()
    return Wrapped({"pkcs7": [cms.wrap(options, [recipient])]}, {**_private(rsa_key()), "x509s": [recipient]})


@cache
def _certificate() -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "bench")])
    start, end = datetime.datetime(2020, 1, 1), datetime.datetime(2090, 1, 1)
    builder = x509.CertificateBuilder(name, name, rsa_key().public_key(), 1, start, end)
    return builder.sign(rsa_key(), hashes.SHA256()).public_bytes(Encoding.DER)


def _make_pgp(home: Path) -> Wrap:
    """Have GnuPG make a key, and later encrypt to it."""
    home.mkdir(0o700)

    def gpg(*arguments: str, data: bytes = b"") -> bytes:
        command = [
            "gpg",
            "--homedir",
            str(home),
            "--batch",
            "--quiet",
            "--passphrase",
            "",
            "--pinentry-mode",
            "loopback",
        ]
        return subprocess.run([*command, *arguments], input=data, capture_output=True, check=True).stdout

    gpg("--quick-generate-key", "bench", "rsa2048", "encrypt", "never")
    parameters = {"gpg-privatekeys": [gpg("--export-secret-keys")], "gpg-privatekeys-passwords": [b""]}
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)
    encrypt = partial(gpg, "--trust-model", "always", "--recipient", "bench", "--encrypt")
    return lambda options: Wrapped({"pgp": [encrypt(data=options)]}, parameters)
