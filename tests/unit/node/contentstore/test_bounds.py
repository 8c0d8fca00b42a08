"""How much of a content store is read."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from decoder import limits
from decoder.errors import PayloadError
from decoder.layer.annotations import KEYS_PREFIX
from decoder.node.containerd import contentstore
from tests.support.keywrap.layers import encrypted
from tests.support.node.store_parts import PLAINTEXT, WINDOW, Store, decode, labelled, nothing_found

if TYPE_CHECKING:
    from pathlib import Path

TAR_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"


def fill(store: Store, blobs: int) -> None:
    """Fill the store: a manifest, a configuration and eight layers for each image."""
    for number in range(blobs):
        data = number.to_bytes(4, "big")
        if number % 10 < 2:
            member = "history" if number % 10 else "layers"
            data = json.dumps({member: [{"mediaType": TAR_GZIP}], "n": number}).encode()
        store.add_as(f"{number:064x}", data)


def test_a_fresh_image_among_10_000_blobs(
    store: Store, opened: list[str], keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STORE_SECONDS", 60.0)  # on a machine that is slow or busy
    fill(store, 10_000)
    layer = encrypted(PLAINTEXT)
    store.add_image(layer)
    opened.clear()
    next(iter(store.search(layer.ciphertext[:WINDOW])))
    assert len(opened) < limits.STORE_BATCH + 10  # the file system decides whether it is the least or the most
    assert decode(store, layer, keys) == (0, PLAINTEXT, "")


def test_an_old_image_under_50_000_blobs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = os.urandom(WINDOW)
    store.add_manifest(labelled("old", store.add(layer)))
    fill(store, 50_000)
    monkeypatch.setattr(limits, "STORE_SECONDS", 60.0)  # on a machine that is slow or busy
    assert store.find(layer) == ["old"]


def test_the_time_is_bounded(store: Store, monkeypatch: pytest.MonkeyPatch, opened: list[str]) -> None:
    layer = os.urandom(WINDOW)
    store.add_manifest(labelled("in vain", store.add(layer)))
    monkeypatch.setattr(limits, "STORE_SECONDS", -1.0)
    opened.clear()
    with pytest.raises(PayloadError, match=r"0 such layers compared; then the search was given up\)"):
        store.find(layer)
    assert opened == [str(store.blobs)]


def test_a_strict_search_in_a_store_that_is_too_large(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = os.urandom(WINDOW)
    store.add_manifest(labelled("in vain", store.add(layer)))
    monkeypatch.setattr(limits, "STORE_SECONDS", -1.0)
    search = contentstore.Search(str(store.root), layer, "", "no payload came", is_strict=True)
    with pytest.raises(PayloadError, match=r"^--strict-lookup: the search was given up after 0 manifests$"):
        next(iter(search))


def test_time_that_keys_take_does_not_count(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = os.urandom(WINDOW)
    digest = store.add(layer)
    for label in ("old", "new"):
        store.add_manifest(labelled(label, digest))
    now = 100.0
    monkeypatch.setattr(contentstore, "monotonic", lambda: now)
    found = []
    for descriptor in store.search(layer):
        found.append(descriptor.annotations[KEYS_PREFIX + "jwe"])
        now += 10 * limits.STORE_SECONDS  # as a keyprovider may take
    assert found == ["new", "old"]


def test_the_number_of_manifests_is_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = os.urandom(WINDOW)
    digest = store.add(layer)
    for number in range(5):
        store.add_manifest(labelled(str(number), digest))
    monkeypatch.setattr(limits, "STORE_MANIFESTS", 3)
    assert store.find(layer) == ["4", "3", "2"]


def test_the_number_of_comparisons_is_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = os.urandom(WINDOW)
    digest = store.add(layer)
    others = [labelled("other", f"sha256:{number:064x}") for number in range(3)]
    store.add_manifest(*others, labelled("in vain", digest))
    monkeypatch.setattr(limits, "STORE_LAYERS", 3)
    nothing_found(store, layer, 1, 3)
