"""Wrapped keys that tokens and key services open."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress

from decoder import keywrap
from decoder.errors import DecoderError
from decoder.formats import wire
from decoder.keys.keyring import DecryptConfig, Keyring
from decoder.keywrap import pkcs11
from decoder.keywrap.pkcs11.keyfile import parse_key_file
from decoder.layer.annotations import KEYS_PREFIX
from decoder.provider import envelope
from decoder.provider.errors import ProviderError
from decoder.provider.services.wrapped import build_annotation, parse_annotation


def pkcs11_key_file(data: bytes) -> None:
    """A key file."""
    with suppress(DecoderError):
        parse_key_file(data)


def pkcs11_wrapped(data: bytes) -> None:
    """A wrapped key, with a key file whose module is not there; and without one of its recipients."""
    keyring = Keyring()
    keyring.add("key.yaml", next(key_file_seeds()))
    with suppress(DecoderError):
        keywrap.unwrap_any({KEYS_PREFIX + "pkcs11": wire.encode_base64(data)}, DecryptConfig(keyring))
    for read in (lambda: pkcs11.recipients(data, {}), lambda: pkcs11.keep(data, [0])):
        with suppress(DecoderError, ValueError):
            read()


def pkcs11_seeds() -> Iterator[bytes]:
    """Two recipients, with each hash."""
    for hash_name in ("sha256", "sha1", ""):
        recipient = {"version": 0, "blob": wire.encode_base64(bytes(256)), "hash": hash_name}
        yield json.dumps({"version": 0, "recipients": [recipient, recipient]}).encode()


def cloud(data: bytes) -> None:
    """What cloud key services and our own providers wrap."""
    with suppress(ProviderError):
        if letter := envelope.parse(data):
            envelope.open_with(envelope.KEK_PREFIX + bytes(32), letter)
    for wrap_type in ("AES", "TRANSIT"):
        with suppress(ProviderError):
            parse_annotation(data, wrap_type)


def envelope_seeds() -> Iterator[bytes]:
    """One of each."""
    wrapped = build_annotation("local://key", bytes(60), "AES")
    yield wrapped
    yield envelope.seal(envelope.KEK_PREFIX + bytes(32), "local", wrapped, b"options")


def key_file_seeds() -> Iterator[bytes]:
    """YAML, and JSON, which is YAML too."""
    yield b"pkcs11:\n  uri: pkcs11:token=t;object=o?pin-value=1234\nmodule:\n  env:\n    A: b\n"
    yield b'{"pkcs11": {"uri": "pkcs11:id=%01%02;slot-id=1"}}'
