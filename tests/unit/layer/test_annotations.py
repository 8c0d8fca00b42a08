"""Annotations, media types and options: written, read, and refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from decoder import limits
from decoder.errors import LayerError, PayloadError
from decoder.formats import wire
from decoder.layer import annotations as layer
from tests.support.keywrap.layers import NONCE, SYMMETRIC_KEY

HMAC = bytes(range(32))
PUBLIC: dict[str, Any] = {"cipher": layer.CIPHER, "hmac": wire.encode_base64(HMAC), "cipheroptions": {}}
PRIVATE: dict[str, Any] = {
    "symkey": wire.encode_base64(SYMMETRIC_KEY),
    "digest": "sha256:00",
    "cipheroptions": {"nonce": wire.encode_base64(NONCE)},
}


def public(options: object) -> dict[str, str]:
    return {layer.PUBLIC_OPTIONS: wire.encode_base64(json.dumps(options).encode())}


def test_reads_what_it_writes() -> None:
    options = layer.PrivateOptions(SYMMETRIC_KEY, NONCE, "sha256:00")
    assert json.loads(layer.build_private_options(options)) == PRIVATE
    assert layer.parse_private_options(layer.build_private_options(options)) == options
    annotations = layer.build_annotations(HMAC, {"jwe": [b"a", b"b"], "provider.p": [b"c"]})
    assert layer.parse_public_options(annotations) == layer.PublicOptions(HMAC, b"")
    assert layer.wrapped_keys(annotations) == [
        layer.WrappedKey(layer.KEYS_PREFIX + "jwe", 0, "YQ=="),
        layer.WrappedKey(layer.KEYS_PREFIX + "jwe", 1, "Yg=="),
        layer.WrappedKey(layer.KEYS_PREFIX + "provider.p", 0, "Yw=="),
    ]


@pytest.mark.parametrize(
    "base",
    [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    ],
)
def test_media_types(base: str) -> None:
    layer.check_media_type(base + "+encrypted")
    for wrong in (base, base + "+enc", base.upper() + "+encrypted", base + "+encrypted "):
        with pytest.raises(PayloadError, match="media type"):
            layer.check_media_type(wrong)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (None, "null instead of an object"),
        ([], "array instead of an object"),
        ({}, "cipher is ''"),
        ({**PUBLIC, "cipher": "AES_256_GCM"}, "AES_256_GCM"),
        ({**PUBLIC, "cipher": 1}, "number instead of a string"),
        ({**PUBLIC, "hmac": ""}, "HMAC has 0 bytes"),
        ({**PUBLIC, "hmac": None}, "HMAC has 0 bytes"),
        ({**PUBLIC, "hmac": "AAAA"}, "HMAC has 3 bytes"),
        ({**PUBLIC, "hmac": wire.encode_base64(HMAC + b"x")}, "HMAC has 33 bytes"),
        ({**PUBLIC, "hmac": "!"}, "not base64"),
        ({**PUBLIC, "cipheroptions": []}, "array instead of an object"),
        ({**PUBLIC, "cipheroptions": {"nonce": {}}}, "instead of base64"),
    ],
)
def test_refuses_public_options(options: object, reason: str) -> None:
    with pytest.raises(LayerError, match=reason):
        layer.parse_public_options(public(options))


@pytest.mark.parametrize("text", ["", "!", "AAAA", "bnVsbA", "e30=="])
def test_refuses_public_options_that_are_no_json(text: str) -> None:
    with pytest.raises(LayerError, match="pubopts"):
        layer.parse_public_options({layer.PUBLIC_OPTIONS: text})
    with pytest.raises(LayerError, match="pubopts"):
        layer.parse_public_options({})


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (None, "null instead of an object"),
        ({}, "layer key has 0 bytes"),
        ({**PRIVATE, "symkey": "AAAA"}, "layer key has 3 bytes"),
        ({**PRIVATE, "symkey": wire.encode_base64(bytes(33))}, "layer key has 33 bytes"),
        ({**PRIVATE, "symkey": 5}, "instead of base64"),
        ({**PRIVATE, "digest": 5}, "instead of a string"),
        ({**PRIVATE, "cipheroptions": {}}, "nonce has 0 bytes"),
        ({**PRIVATE, "cipheroptions": {"Nonce": PRIVATE["cipheroptions"]["nonce"]}}, "nonce has 0 bytes"),
        ({**PRIVATE, "cipheroptions": {"nonce": wire.encode_base64(bytes(15))}}, "nonce has 15 bytes"),
        ({**PRIVATE, "cipheroptions": {"nonce": wire.encode_base64(bytes(17))}}, "nonce has 17 bytes"),
        ({**PRIVATE, "padding": "x" * limits.PRIVATE_OPTIONS_BYTES}, "longer than 65536"),
    ],
)
def test_refuses_private_options(options: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        layer.parse_private_options(json.dumps(options).encode())


def test_a_public_nonce_never_overrides_the_private_one() -> None:
    private = layer.parse_private_options(json.dumps(PRIVATE).encode())
    assert layer.layer_key(layer.PublicOptions(HMAC, NONCE), private) == layer.LayerKey(SYMMETRIC_KEY, NONCE, HMAC)
    for other in (bytes(16), b"x", NONCE + b"x"):
        with pytest.raises(LayerError, match="nonce that differs"):
            layer.layer_key(layer.PublicOptions(HMAC, other), private)


def test_refuses_too_many_wrapped_keys() -> None:
    with pytest.raises(LayerError, match="more than 256 wrapped keys"):
        layer.wrapped_keys({layer.KEYS_PREFIX + "jwe": "," * limits.WRAPPED_KEYS})
    with pytest.raises(LayerError, match="more than 256 wrapped keys"):
        layer.wrapped_keys({f"{layer.KEYS_PREFIX}provider.p{n}": "AA==" for n in range(limits.WRAPPED_KEYS + 1)})
