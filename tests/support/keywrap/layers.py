"""Encrypted layers for tests, written by the project's own code."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from decoder.keywrap import jwe
from decoder.layer import annotations as layer
from decoder.layer import stream

SYMMETRIC_KEY = bytes(range(32))
NONCE = bytes(range(100, 116))
MEDIA_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"


class Layer(NamedTuple):
    """A layer, what it decrypts to, and the descriptor that a manifest holds of it."""

    plaintext: bytes
    ciphertext: bytes
    descriptor: dict[str, Any]


class MemoryFile(io.BytesIO):
    """Bytes that pass as an unbuffered file."""


@cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    """Read the RSA key of a size from the directory `rsa`: to make one would take up to a second."""
    data = (Path(__file__).with_name("rsa") / f"{bits}.pem").read_bytes()
    key = load_pem_private_key(data, None, unsafe_skip_rsa_key_validation=True)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


@cache
def ec_key(curve: type[ec.EllipticCurve] = ec.SECP256R1) -> ec.EllipticCurvePrivateKey:
    """Make an EC key, once."""
    return ec.generate_private_key(curve())


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    """Write a private key as PKCS#8."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def keys_directory(parent: Path) -> Path:
    """Make a directory with the RSA key, such as `--decryption-keys-path` names."""
    directory = parent / "keys"
    directory.mkdir()
    (directory / "key.pem").write_bytes(pem(rsa_key()))
    return directory


def public_pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    """Write the public half as SubjectPublicKeyInfo."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def private_options(**changes: Any) -> bytes:
    """Write the private options that `encrypted` uses, or others."""
    options = layer.PrivateOptions(SYMMETRIC_KEY, NONCE, "sha256:" + "0" * 64)
    return layer.build_private_options(options._replace(**changes))


def encrypted(plaintext: bytes, wrapped: dict[str, list[bytes]] | None = None, media_type: str = MEDIA_TYPE) -> Layer:
    """Encrypt a layer, wrapped to `rsa_key()` unless other wrapped keys are given by scheme."""
    ciphertext = MemoryFile()
    hmac = stream.encrypt(source_of(plaintext), sink_of(ciphertext), SYMMETRIC_KEY, NONCE)
    if wrapped is None:
        wrapped = {"jwe": [jwe.wrap(private_options(), [public_pem(rsa_key())])]}
    annotations = layer.build_annotations(hmac, wrapped)
    return Layer(plaintext, ciphertext.getvalue(), {"mediaType": media_type, "annotations": annotations})


def source_of(data: bytes) -> stream.Source:
    """Make a source that gives these bytes."""
    return cast("stream.Source", MemoryFile(data))


def sink_of(file: MemoryFile) -> stream.Sink:
    """Make a sink of a file in memory."""
    return cast("stream.Sink", file)
