"""Encrypted layers to measure with. The payload of a layer has its key."""

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from hmac import HMAC
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from bench.process import ciphertext
from bench.programs import PIP_PROGRAM, Layer, serving
from decoder.keywrap import jwe, pkcs7
from decoder.layer.annotations import ENCRYPTED, OCI_TAR, PrivateOptions, build_annotations, build_private_options
from decoder.layer.payload import Descriptor, Payload, build_payload
from decoder.provider import create

SMALL_BYTES = 246
_KEY, _NONCE = bytes(range(32)), bytes(range(16))
# Of the `cmd` provider: its wrapped key is the private options themselves, so it takes next to no time of its own.
_SED = r's/.*"annotation": *"([^"]*)".*/{"keyunwrapresults":{"optsdata":"\1"}}/'


class Scheme(NamedTuple):
    """A way to wrap a key, by its name in annotations; the parameters of a payload, and variables, that open it."""

    name: str
    wrap: Callable[[bytes], bytes]
    parameters: Mapping[str, list[bytes]] = {}
    environment: Mapping[str, str] = {}


def new_key(*options: str) -> bytes:
    """Generate a private key as PEM (PKCS#8): an RSA-2048 key, unless openssl genpkey gets other options."""
    return _output("openssl", "genpkey", *(options or ("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048")))


@cache
def rsa_key() -> bytes:
    """Return one RSA-2048 key, generated at the first call."""
    return new_key()


def public_pem(key: bytes) -> bytes:
    """Return the public half of a key."""
    return _output("openssl", "pkey", "-pubout", data=key)


def make_layer(size: int = SMALL_BYTES, scheme: Scheme | None = None, has_key: bool = True) -> Layer:
    """Build the layer whose ciphertext is `bench.process.ciphertext(size)`, for `rsa_key` if there is no scheme."""
    scheme = scheme or _jwe(rsa_key())
    hmac, plain = _digests(size)
    wrapped = scheme.wrap(build_private_options(PrivateOptions(_KEY, _NONCE, f"sha256:{plain}")))
    descriptor = Descriptor(OCI_TAR + ENCRYPTED, build_annotations(hmac, {scheme.name: [wrapped]}))
    payload = build_payload(Payload(dict(scheme.parameters) if has_key else {}, descriptor))
    return Layer(size, payload, plain, scheme.environment)


@cache
def _digests(size: int) -> tuple[bytes, str]:
    """Return the HMAC of the ciphertext, and the SHA-256 of the plaintext."""
    hmac, plain = HMAC(_KEY, digestmod="sha256"), hashlib.sha256()
    cipher = Cipher(algorithms.AES(_KEY), modes.CTR(_NONCE)).decryptor()
    for block in ciphertext(size):
        hmac.update(block)
        plain.update(cipher.update(block))
    return hmac.digest(), plain.hexdigest()


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
                "JWE EC": _jwe(new_key("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")),
                "PKCS#7": _pkcs7(rsa_key()),
                "OpenPGP": _pgp(Path(name, "gnupg")),
                "`cmd` provider": Scheme("provider.cmd", bytes, environment=environment),
                "`grpc` provider": Scheme("provider.grpc", local, environment=environment),
            }


def _jwe(key: bytes) -> Scheme:
    return Scheme("jwe", partial(jwe.wrap, recipients=[public_pem(key)]), _private(key))


def _pkcs7(key: bytes) -> Scheme:
    request = ("openssl", "req", "-x509", "-key", "/dev/stdin", "-subj", "/CN=bench", "-outform", "DER")
    certificate = _output(*request, data=key)
    return Scheme("pkcs7", partial(pkcs7.wrap, recipients=[certificate]), {**_private(key), "x509s": [certificate]})


def _pgp(home: Path) -> Scheme:
    """Generate a key with GnuPG, which also encrypts to it."""
    home.mkdir(0o700)
    options = ("--homedir", str(home), "--batch", "--quiet", "--passphrase", "", "--pinentry-mode", "loopback")
    gpg = partial(_output, "gpg", *options)
    gpg("--quick-generate-key", "bench", "rsa2048", "encrypt", "never")
    parameters = {"gpg-privatekeys": [gpg("--export-secret-keys")], "gpg-privatekeys-passwords": [b""]}
    _output("gpgconf", "--homedir", str(home), "--kill", "all")
    encrypt = partial(gpg, "--trust-model", "always", "--recipient", "bench", "--encrypt")
    return Scheme("pgp", lambda options: encrypt(data=options), parameters)


def _private(key: bytes) -> dict[str, list[bytes]]:
    return {"privkeys": [key], "privkeys-passwords": [b""]}


def _output(*command: str, data: bytes = b"") -> bytes:
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout
