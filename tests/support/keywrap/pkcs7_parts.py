"""Holders of RSA keys and certificates; wrap and unwrap with the scheme pkcs7, for tests."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from decoder.errors import WrappedKeyError
from decoder.formats import wire
from decoder.keys.file import KeyMaterial
from decoder.keys.keyring import DecryptConfig, Keyring
from decoder.keys.privatekey import PrivateKey
from decoder.keywrap import pkcs7
from decoder.keywrap.unproven import Unproven
from tests.support.keywrap import layers
from tests.support.keywrap import pkcs7_writer as writer
from tests.support.keywrap.layers import pem

OPTIONS = layers.private_options()


NO_KEY = "it is the certificate of a recipient, but no private key that was given matches it"


class Somebody:
    """A holder of a private key and of a certificate for it, in PEM."""

    def __init__(self, name: str, key: Any, serial: int = 7) -> None:
        self.name = name
        self.key = key
        self.der = writer.certificate(key, name, serial)
        self.certificate = pem_of(self.der, "CERTIFICATE")


def pem_of(data: bytes, label: str) -> bytes:
    text = wire.encode_base64(data)
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode()


@cache
def somebody(name: str = "first", bits: int = 2048) -> Somebody:
    from cryptography.hazmat.primitives.asymmetric import rsa

    return Somebody(name, rsa.generate_private_key(65537, bits))


def keys_of(*keys: Any, certificates: tuple[bytes, ...] = ()) -> Keyring:
    found = Keyring()
    found.private += [PrivateKey(f"key{number}", "pem", pem(key), b"") for number, key in enumerate(keys)]
    found.certificates += [KeyMaterial(f"certificate{number}", data) for number, data in enumerate(certificates)]
    return found


def unwrap(wrapped: bytes, *keys: Any, certificates: tuple[bytes, ...] = ()) -> tuple[bytes | None, list[str]]:
    told: list[str] = []

    def refused(key: Any, reason: str) -> None:
        told.append(f"{key.name}: {reason}")

    opened = pkcs7.unwrap(wrapped, DecryptConfig(keys_of(*keys, certificates=certificates)), refused)
    return (opened.opened or None) if isinstance(opened, Unproven) else opened, told


def assert_opens(wrapped: bytes, who: Somebody, options: bytes = OPTIONS) -> None:
    """With the certificate in PEM, in DER, and without it."""
    for certificates in ((who.certificate,), (who.der,), ()):
        assert unwrap(wrapped, who.key, certificates=certificates) == (options, [])


class Untouchable(PrivateKey):
    """A key that fails the test as soon as it is used."""

    def __init__(self) -> None:
        super().__init__("untouchable", "pem", b"", b"")

    def load(self) -> Any:
        raise AssertionError("a key was used before the structure and the algorithms were checked")


def assert_refused(wrapped: bytes, reason: str) -> None:
    keys = Keyring()
    keys.private.append(Untouchable())
    keys.certificates.append(KeyMaterial("certificate", somebody().der))
    with pytest.raises(WrappedKeyError, match=reason):
        pkcs7.unwrap(wrapped, DecryptConfig(keys), lambda _key, _reason: None)
