"""What skopeo encrypts, the installed program restores, layer by layer as containerd starts it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.image import images
from tests.support.program.processes import Result, payload_bytes, run_decoder

if TYPE_CHECKING:
    from tests.support.image.images import Layout
    from tests.support.keys.keypairs import Encrypt, KeyPair

EVERY_KEY = ["rsa2048", "rsa4096", "p256", "p384", "p521"]


def decode_layers(encrypted: Layout, *private_keys: KeyPair) -> list[Result]:
    parameters = {"privkeys": [key.private.read_bytes() for key in private_keys]}
    return [
        run_decoder(payload_bytes(descriptor, parameters), encrypted.read(descriptor))
        for descriptor in encrypted.layers
    ]


def assert_restored(results: list[Result], plain: Layout) -> None:
    assert [(result.status, result.errors) for result in results] == [(0, "")] * 3
    assert [result.plaintext for result in results] == [plain.read(descriptor) for descriptor in plain.layers]


@pytest.mark.parametrize("name", EVERY_KEY)
def test_restores_an_image_for_one_key(
    name: str, plain: dict[str, Layout], encrypt: Encrypt, keys: dict[str, KeyPair]
) -> None:
    assert_restored(decode_layers(encrypt(plain[images.GZIP], [name]), keys[name]), plain[images.GZIP])


def test_each_of_several_recipients_opens_the_image(
    plain: dict[str, Layout], encrypt: Encrypt, keys: dict[str, KeyPair]
) -> None:
    encrypted = encrypt(plain[images.GZIP], EVERY_KEY)
    for name in EVERY_KEY:
        assert_restored(decode_layers(encrypted, keys[name]), plain[images.GZIP])


@pytest.mark.parametrize("media_type", [images.TAR, images.DOCKER_GZIP])
def test_restores_other_media_types(
    media_type: str, plain: dict[str, Layout], encrypt: Encrypt, keys: dict[str, KeyPair]
) -> None:
    encrypted = encrypt(plain[media_type], ["rsa2048"])
    assert {descriptor["mediaType"] for descriptor in encrypted.layers} == {f"{media_type}+encrypted"}
    assert_restored(decode_layers(encrypted, keys["rsa2048"]), plain[media_type])


def test_the_key_is_found_among_others(plain: dict[str, Layout], encrypt: Encrypt, keys: dict[str, KeyPair]) -> None:
    encrypted = encrypt(plain[images.GZIP], ["p384"])
    assert_restored(decode_layers(encrypted, *keys.values()), plain[images.GZIP])


def test_another_key_opens_nothing(plain: dict[str, Layout], encrypt: Encrypt, keys: dict[str, KeyPair]) -> None:
    encrypted = encrypt(plain[images.GZIP], ["rsa2048", "p256"])
    for result in decode_layers(encrypted, keys["rsa4096"], keys["p521"]):
        assert (result.status, result.plaintext) == (4, b"")
        assert "no key opens this layer" in result.errors
