"""What a layer costs once the process runs; `python -m bench` has pytest-benchmark call this."""

# ruff: noqa: S101 - pytest's way to check

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256
from io import FileIO
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from bench.layer import LAYER_KEY, LAYER_NONCE, make_layer
from bench.pipes import ciphertext
from decoder.keys.keyring import DecryptConfig, Keyring
from decoder.keywrap import jwe
from decoder.layer import stream
from decoder.layer.annotations import LayerKey, parse_public_options
from decoder.layer.payload import parse_payload
from decoder.limits import MIB

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture


@pytest.fixture
def source() -> Iterator[FileIO]:
    """Return an anonymous file in memory."""
    with FileIO(os.memfd_create("source"), "r+b") as file:
        yield file


@pytest.fixture
def sink() -> Iterator[FileIO]:
    """Return another one."""
    with FileIO(os.memfd_create("sink"), "r+b") as file:
        yield file


@pytest.mark.parametrize("size", [246, 1 * MIB, 64 * MIB])
def test_stream_decrypt(benchmark: BenchmarkFixture, source: FileIO, sink: FileIO, size: int) -> None:
    """Decrypt a layer from one file to another."""
    layer = make_layer(size)
    public = parse_public_options(parse_payload(layer.payload).descriptor.annotations)
    key = LayerKey(LAYER_KEY, LAYER_NONCE, public.hmac)
    for block in ciphertext(size):
        source.write(block)

    def decrypt() -> None:
        source.seek(0)
        sink.seek(0)
        stream.decrypt(source, sink, key)

    benchmark(decrypt)
    sink.seek(0)
    assert sha256(sink.read()).hexdigest() == layer.plain_sha256


@pytest.mark.parametrize("kind", ["RSA-2048", "P-256"])
def test_jwe_unwrap(benchmark: BenchmarkFixture, kind: str) -> None:
    """Open a wrapped key, the parsing of the private key included."""
    key = rsa.generate_private_key(65537, 2048) if kind == "RSA-2048" else ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    wrapped = jwe.wrap(b"private options", [public])
    refused: list[str] = []

    def unwrap() -> bytes | None:
        keys = Keyring()
        keys.add("key", private)
        return jwe.unwrap(wrapped, DecryptConfig(keys), lambda _, reason: refused.append(reason))

    assert benchmark(unwrap) == b"private options"
    assert not refused


def test_parse_payload(benchmark: BenchmarkFixture) -> None:
    """Parse what containerd sends."""
    payload = make_layer(246).payload
    assert list(benchmark(parse_payload, payload).parameters) == ["privkeys", "privkeys-passwords"]
