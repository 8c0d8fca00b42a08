"""Images whose wrapped keys have no integrity protection: every failure after unwrapping is the same."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from decoder.layer import annotations as layers
from tests.support.image import images
from tests.support.image.command import done, image, oci
from tests.support.image.images import Layout
from tests.support.keywrap import pkcs7_writer as writer
from tests.support.keywrap.layers import encrypted, pem, private_options, rsa_key
from tests.support.keywrap.pkcs7_parts import somebody

if TYPE_CHECKING:
    from tests.support.image.command import Ended
    from tests.support.keywrap.layers import Layer

PLAINTEXT = os.urandom(30_000)
OPTIONS = private_options(digest=images.digest_of(PLAINTEXT))
BLOCK = 16
LETTER_AT = len('{"symkey":"')  # in the first block, which the IV changes
CHANGED = "the layer is damaged or not authentic, or no key opens this layer"


def cbc(options: bytes) -> bytes:
    padding = BLOCK - len(options) % BLOCK
    return writer.enveloped(writer.cbc_parts(somebody().key, options + bytes([padding]) * padding))


def another_key(wrapped: bytes) -> bytes:
    """Change a letter of the layer key, which stays well-formed."""
    at = wrapped.index(writer.IV) + LETTER_AT
    return wrapped[:at] + bytes([wrapped[at] ^ 2]) + wrapped[at + 1 :]


def another_hmac(layer: Layer) -> Layer:
    annotations = {**layer.descriptor["annotations"]}
    annotations[layers.PUBLIC_OPTIONS] = layers.build_annotations(bytes(32), {})[layers.PUBLIC_OPTIONS]
    return layer._replace(descriptor={**layer.descriptor, "annotations": annotations})


def failures() -> dict[str, Layer]:
    good = cbc(OPTIONS)
    return {
        "malformed": encrypted(PLAINTEXT, {"pkcs7": [cbc(b"{}")]}),
        "no padding": encrypted(PLAINTEXT, {"pkcs7": [writer.enveloped(writer.cbc_parts(somebody().key, bytes(64)))]}),
        "another key": encrypted(PLAINTEXT, {"pkcs7": [another_key(good)]}),
        "another nonce": encrypted(PLAINTEXT, {"pkcs7": [cbc(private_options(nonce=bytes(16)))]}),
        "another digest": encrypted(PLAINTEXT, {"pkcs7": [cbc(private_options())]}),
        "no digest": encrypted(PLAINTEXT, {"pkcs7": [cbc(private_options(digest="../x"))]}),
        "another HMAC": another_hmac(encrypted(PLAINTEXT, {"pkcs7": [good]})),
    }


def written(directory: Path, layer: Layer) -> Layout:
    layout = Layout(directory)
    descriptor = {**layer.descriptor, **layout.add(layer.ciphertext, "")}
    descriptor["mediaType"] = layer.descriptor["mediaType"]
    config = {"architecture": "amd64", "os": "linux", "config": {}}
    layout.write_manifest({**config, "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]}}, [descriptor])
    return layout


@pytest.fixture
def key(tmp_path: Path) -> list[str]:
    path = tmp_path / "key.pem"
    path.write_bytes(pem(somebody().key))
    return ["--key", str(path)]


@pytest.mark.parametrize("verb", ["decrypt", "check", "check --verify", "layerinfo", "rewrap", "encrypt"])
def test_every_failure_is_the_same(verb: str, tmp_path: Path, key: list[str], recipient: list[str]) -> None:
    place = tmp_path / "image"

    def run(layer: Layer) -> tuple[Ended, bool]:
        layout = written(place, layer)
        target = tmp_path / "target"
        to = {"decrypt": [f"oci:{target}"], "encrypt": [f"oci:{target}", *recipient], "rewrap": recipient}
        arguments = [*verb.split(), oci(layout), *to.get(verb, []), *key, *(["--json"] if verb == "layerinfo" else [])]
        before = (place / "index.json").read_bytes()
        ended = image(*arguments)
        is_changed = (target / "index.json").exists() or (place / "index.json").read_bytes() != before
        if verb == "layerinfo":
            (found,) = ended.value["layers"]
            return ended._replace(output=str(found["opens"]), errors=found["reason"]), is_changed
        return ended, is_changed

    outcomes = {name: run(layer) for name, layer in failures().items()}
    assert len(set(outcomes.values())) == 1, outcomes
    ended, is_changed = outcomes["malformed"]
    assert ended.status == (0 if verb == "layerinfo" else 5)
    assert CHANGED in ended.errors
    assert "Traceback" not in ended.errors
    assert not is_changed
    ended, _ = run(encrypted(PLAINTEXT, {"pkcs7": [cbc(OPTIONS)]}))
    assert (ended.status, CHANGED in ended.errors) == (0, False), ended.errors


def test_what_was_changed_hides_nothing_that_opens(tmp_path: Path, key: list[str]) -> None:
    good = cbc(OPTIONS)
    for number, changed in enumerate([cbc(b"{}"), another_key(good), cbc(private_options(nonce=bytes(16)))]):
        for order, wrapped in enumerate([[changed, good], [good, changed]]):
            layout = written(tmp_path / f"{number}-{order}", encrypted(PLAINTEXT, {"pkcs7": wrapped}))
            target = Layout(tmp_path / f"{number}-{order}-plain")
            done("decrypt", oci(layout), oci(target), *key)
            assert target.read(target.layers[0]) == PLAINTEXT
            done("check", oci(layout), *key)


def test_the_wrong_key_is_one_of_them(tmp_path: Path, key: list[str]) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(pem(rsa_key()))
    layout = written(tmp_path / "image", encrypted(PLAINTEXT, {"pkcs7": [cbc(OPTIONS)]}))
    ended = image("check", oci(layout), "--key", str(other))
    changed = written(tmp_path / "image", failures()["another key"])
    assert (ended.status, ended.errors) == (5, image("check", oci(changed), *key).errors)


def test_a_blob_that_is_not_what_its_descriptor_says(tmp_path: Path, key: list[str]) -> None:
    layer = encrypted(PLAINTEXT, {"pkcs7": [cbc(OPTIONS)]})
    layout = written(tmp_path / "image", layer)
    path = layout.directory / "blobs" / layout.layers[0]["digest"].replace(":", "/")
    path.write_bytes(bytes(len(layer.ciphertext)))
    ended = image("check", oci(layout), *key)
    assert (ended.status, "layer 0 (linux/amd64): sha256:" in ended.errors) == (5, True), ended.errors
    assert image("decrypt", oci(layout), f"oci:{tmp_path / 'target'}", *key).status == 5
