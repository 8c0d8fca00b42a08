"""A layer without a payload is looked for in containerd's content store: what is found there."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from decoder import limits
from tests.support.keywrap.layers import MEDIA_TYPE, ec_key, encrypted, public_pem, rsa_key
from tests.support.node.store_parts import (
    MIB,
    PLAINTEXT,
    WINDOW,
    Store,
    decode,
    fails,
    labelled,
    manifest,
    nothing_found,
    wrapped_for,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TAR_TYPE = MEDIA_TYPE.replace("+gzip", "")


# What is found.


def test_decrypts_without_a_payload(store: Store, keys: Path) -> None:
    layers = [encrypted(PLAINTEXT), encrypted(b"small"), encrypted(bytes(3 * MIB))]
    store.add_image(*layers)
    for layer in layers:
        assert decode(store, layer, keys) == (0, layer.plaintext, "")
        assert decode(store, layer, keys, "--release", "verified") == (0, layer.plaintext, "")


def test_other_blobs_are_passed_over(store: Store) -> None:
    layer = os.urandom(9000)
    digest = store.add(layer)
    plain = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest}
    store.add_manifest(plain, labelled("found", digest), labelled("other", store.add(bytes(9000))))
    store.add_manifest(plain)
    store.add(json.dumps({"schemaVersion": 2, "manifests": [labelled("index", digest)]}).encode())
    store.add(json.dumps({"architecture": "amd64", "history": [{"comment": "a layer+encrypted"}]}).encode())
    store.add(json.dumps([labelled("list", digest)]).encode())
    store.add(json.dumps({"config": labelled("config", digest)}).encode())
    store.add(b"")
    store.add_as("index.json", manifest(labelled("no digest", digest)))
    for magic in (b"\x1f\x8b\x08\x00", b"\x28\xb5\x2f\xfd", b"{not JSON, but encrypted"):
        store.add(magic + os.urandom(9000))
    assert store.find(layer) == ["found"]


@pytest.mark.parametrize("size", [0, 1, WINDOW - 1, WINDOW, WINDOW + 1, 10 * WINDOW])
def test_sizes_around_the_window(size: int, store: Store, keys: Path) -> None:
    layer = encrypted(os.urandom(size))
    store.add_image(layer)
    assert decode(store, layer, keys) == (0, layer.plaintext, "")


@pytest.mark.parametrize("size", [0, 1, WINDOW - 1])
def test_a_small_layer_is_compared_whole(size: int, store: Store) -> None:
    layer = os.urandom(size)
    store.add_manifest(labelled("longer", store.add(layer + b"\0")))
    nothing_found(store, layer, 1, 1)
    store.add_manifest(labelled("equal", store.add(layer)))
    assert store.find(layer) == ["equal"]


def test_a_shorter_blob_is_another_layer(store: Store) -> None:
    layer = os.urandom(2 * WINDOW)
    store.add_manifest(labelled("shorter", store.add(layer[: WINDOW - 1])))
    nothing_found(store, layer, 1, 1)


def test_newer_manifests_first(store: Store) -> None:
    layer = os.urandom(WINDOW)
    digest = store.add(layer)
    labels = [str(number) for number in range(20)]
    for label in labels:
        store.add_manifest(labelled(label, digest))
    assert store.find(layer) == labels[::-1]


def test_the_same_annotations_are_tried_once(store: Store) -> None:
    layer = os.urandom(WINDOW)
    digest = store.add(layer)
    for tag in range(5):
        store.add_manifest(labelled("shared", digest), labelled(f"of tag {tag}", digest), tag=tag)
    assert sorted(store.find(layer)) == [*(f"of tag {tag}" for tag in range(5)), "shared"]


def test_a_manifest_that_names_one_blob_too_often(store: Store) -> None:
    """However many recipients a hostile manifest makes up, only so many are tried."""
    digest = store.add(b"layer")
    store.add_manifest(*(labelled(str(number), digest) for number in range(limits.STORE_DESCRIPTORS + 50)))
    assert len(store.find(b"layer")) == limits.STORE_DESCRIPTORS


def test_one_blob_is_compared_once(store: Store, opened: list[str]) -> None:
    layer = os.urandom(WINDOW)
    digest = store.add(layer)
    for tag in range(5):
        store.add_manifest(labelled(str(tag), digest))
    opened.clear()
    search = store.search(layer)
    assert len(list(search)) == 5
    assert (search.manifests, search.layers) == (5, 1)
    assert opened.count(digest.partition(":")[2]) == 2  # once to see whether it is a manifest


@pytest.mark.parametrize("mine_first", [True, False])
def test_whoever_the_key_belongs_to(mine_first: bool, store: Store, keys: Path) -> None:
    layers = [wrapped_for(public_pem(rsa_key())), wrapped_for(public_pem(ec_key()))]
    assert layers[0].ciphertext == layers[1].ciphertext
    for layer in layers if mine_first else layers[::-1]:
        store.add_image(layer)
    assert decode(store, layers[0], keys) == (0, PLAINTEXT, "")


def test_no_key_for_any_of_them(store: Store, keys: Path) -> None:
    layer = wrapped_for(public_pem(ec_key()))
    store.add_image(layer)
    store.add_image(wrapped_for(public_pem(rsa_key(3072))))
    fails(decode(store, layer, keys), 4, "no key opens this layer", "RSA 2048")


def test_a_damaged_descriptor_beside_a_good_one(store: Store, keys: Path) -> None:
    layer = encrypted(PLAINTEXT)
    store.add_image(layer)
    digest = store.add(layer.ciphertext)
    store.add_manifest(labelled("???", digest))
    store.add_manifest({"mediaType": MEDIA_TYPE, "digest": digest, "annotations": None})
    result = decode(store, layer, keys)
    assert (result.status, result.plaintext) == (0, PLAINTEXT)
    assert result.errors.endswith("without a wrapped key\n")


def test_a_damaged_layer_is_refused(store: Store, keys: Path) -> None:
    layer = encrypted(PLAINTEXT)
    store.add_image(layer)
    flipped = layer.ciphertext[:-1] + bytes([layer.ciphertext[-1] ^ 1])
    result = decode(store, layer._replace(ciphertext=flipped), keys)
    assert (result.status, result.plaintext) == (5, PLAINTEXT[: -limits.TAIL_BYTES])


def test_the_media_type_narrows(store: Store, keys: Path) -> None:
    layer = os.urandom(WINDOW)
    digest = store.add(layer)
    store.add_manifest(labelled("gzip", digest), labelled("tar", digest, TAR_TYPE))
    assert store.find(layer) == ["gzip", "tar"]
    assert store.find(layer, MEDIA_TYPE) == ["gzip"]
    assert store.find(layer, TAR_TYPE) == ["tar"]
    nothing_found(store, layer, 1, 0, "application/vnd.oci.image.layer.v1.tar")

    real = encrypted(PLAINTEXT)
    store.add_image(real)
    for media_type, status in ((MEDIA_TYPE, 0), (TAR_TYPE, 3), ("", 0)):
        assert decode(store, real, keys, environment={"STREAM_PROCESSOR_MEDIATYPE": media_type}).status == status


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda text: b"\n\t\r " + text,
        lambda text: json.dumps(json.loads(text), indent=4).encode(),
        lambda text: text.replace(b"+", rb"\u002b"),
        lambda text: text.replace(b'"digest"', b'"Digest"'),
        lambda text: text.replace(b'"found"', b'"\xff"'),
        lambda text: text[:-1] + b', "more": "' + bytes(WINDOW).replace(b"\0", b"x") + b'"}',
    ],
    ids=["space first", "indented", "escaped plus", "member in another case", "not UTF-8", "long"],
)
def test_ways_to_write_a_manifest(rewrite: Callable[[bytes], bytes], store: Store) -> None:
    layer = os.urandom(WINDOW)
    store.add(rewrite(manifest(labelled("found", store.add(layer)))))
    assert store.find(layer) in (["found"], ["\N{REPLACEMENT CHARACTER}"])
