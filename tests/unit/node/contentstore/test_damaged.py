"""A content store with what is absent, damaged, or made to hurt."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any

import pytest

from decoder import limits
from decoder.errors import PayloadError
from decoder.node.containerd.contentstore import BLOBS, Search
from tests.support.keywrap.layers import MEDIA_TYPE, encrypted
from tests.support.node.store_parts import (
    MIB,
    NOTHING_FOUND,
    PLAINTEXT,
    WINDOW,
    Store,
    decode,
    descriptor_of,
    directory,
    fails,
    labelled,
    manifest,
    nothing_found,
)
from tests.support.program.processes import run_decoder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# What is not there, damaged, or made to hurt.


def test_an_absent_manifest(store: Store, keys: Path) -> None:
    layer = encrypted(PLAINTEXT)
    store.add(layer.ciphertext)
    store.add_image(encrypted(b"another"))
    result = decode(store, layer, keys)
    counts = "(1 manifests with encrypted layers were read, 1 such layers compared)"
    fails(result, 3, str(store.blobs), NOTHING_FOUND, counts, "no payload came", "descriptor 3 is not open")


def test_an_absent_store(tmp_path: Path, keys: Path) -> None:
    result = run_decoder(None, b"x", "--content-store", str(tmp_path), "--decryption-keys-path", str(keys))
    fails(result, 3, "no payload came", str(tmp_path / BLOBS), "cannot be read: No such file or directory")


def test_a_file_in_place_of_the_store(tmp_path: Path) -> None:
    (tmp_path / BLOBS).parent.mkdir(parents=True)
    (tmp_path / BLOBS).write_bytes(b"")
    with pytest.raises(PayloadError, match="cannot be read: Not a directory"):
        list(Search(str(tmp_path), b"", "", "no payload came"))


GOOD = manifest(labelled("found", "sha256:" + "0" * 64))


@pytest.mark.parametrize(
    "text",
    [
        GOOD[:-1],
        GOOD[: len(GOOD) // 2],
        GOOD + GOOD,
        b'{"+encrypted":' + b"[" * 100_000,
        b'{"layers":' + b'{"+encrypted":' * 100_000,
        b'{"+encrypted":' + b"9" * 100_000 + b"}",
        b'{"+encrypted":NaN}',
        b'{"layers":null,"+encrypted":1}',
        b'{"layers":{"+encrypted":1}}',
        b'{"layers":"+encrypted"}',
        manifest(None, 1, "+encrypted", [], {}),
        manifest({"mediaType": 1, "digest": "+encrypted"}),
        manifest({"mediaType": MEDIA_TYPE}),
        manifest({"mediaType": MEDIA_TYPE, "digest": ["sha256"]}),
        manifest({"mediaType": [MEDIA_TYPE]}),
        manifest({"mediaType": MEDIA_TYPE, "annotations": {"a": 1}}),
        manifest({"mediaType": MEDIA_TYPE, "annotations": "none"}),
        manifest({"mediaType": MEDIA_TYPE, "size": "large"}),
    ],
    ids=lambda text: text[:60].decode(),
)
def test_corrupt_manifests(text: bytes, store: Store) -> None:
    layer = os.urandom(WINDOW)
    store.add_manifest(labelled("found", store.add(layer)))
    store.add(text)
    assert store.find(layer) == ["found"]


def test_corrupt_entries_beside_a_good_one(store: Store) -> None:
    layer = os.urandom(WINDOW)
    bad = [None, 1, {"mediaType": 1}, {"mediaType": MEDIA_TYPE}, labelled("bad", "sha256:0")]
    store.add_manifest(*bad, labelled("found", store.add(layer)), *bad)
    assert store.find(layer) == ["found"]


@pytest.mark.parametrize(
    "digest",
    [
        "",
        "sha256:",
        "sha256",
        "sha256:../../x",
        "sha256:" + "../" * 21 + "x",
        "sha256:/" + "0" * 63,
        "sha256:" + "0" * 63,
        "sha256:" + "0" * 65,
        "sha256:" + "A" * 64,
        "sha256:" + "0" * 63 + "\0",
        "sha256:" + "\N{FULLWIDTH DIGIT ZERO}" * 64,
        "sha512:" + "0" * 64,
        "SHA256:" + "0" * 64,
        "0" * 64,
        ":" + "0" * 64,
    ],
)
def test_digests_that_name_no_blob(digest: str, store: Store, opened: list[str]) -> None:
    layer = os.urandom(WINDOW)
    outside = store.blobs / digest.partition(":")[2]
    if digest.startswith("sha256:../") and not outside.exists():
        outside.parent.resolve().mkdir(parents=True, exist_ok=True)
        (store.blobs / "../../x").write_bytes(layer)
    name = store.add_manifest(labelled("outside", digest)).partition(":")[2]
    opened.clear()
    nothing_found(store, layer, 1, 0)
    assert opened == [str(store.blobs), name]


def test_100_megabytes_of_json_are_not_read(store: Store, opened: list[str]) -> None:
    layer = os.urandom(WINDOW)
    store.add_manifest(labelled("found", store.add(layer)))
    large = store.add_manifest(labelled("large", store.add(layer))).partition(":")[2]
    with (store.blobs / large).open("ab") as file:
        file.write(b" " * (100 * MIB))
    assert store.find(layer) == ["found"]
    assert large not in opened


@pytest.mark.parametrize(("size", "found"), [(limits.MANIFEST_BYTES, ["large"]), (limits.MANIFEST_BYTES + 1, [])])
def test_the_largest_manifest(size: int, found: list[str], store: Store) -> None:
    layer = os.urandom(WINDOW)
    store.add_manifest(labelled("small", store.add(layer)))
    store.add(manifest(labelled("large", store.add(layer))).ljust(size))
    assert store.find(layer) == [*found, "small"]


def test_blobs_that_vanish_once_they_are_listed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = os.urandom(WINDOW)
    digest = store.add(layer)
    store.add_manifest(labelled("stays", digest))
    gone = [store.add_manifest(labelled(f"goes {number}", digest)).partition(":")[2] for number in range(2)]
    os_stat, os_open = os.stat, os.open

    def stat(path: Any, **options: Any) -> os.stat_result:
        if path == gone[0]:
            (store.blobs / gone[0]).unlink()
        return os_stat(path, **options)

    def open_(path: Any, *arguments: Any, **options: Any) -> int:
        if path == gone[1]:
            (store.blobs / gone[1]).unlink()
        return os_open(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(os, "open", open_)
    assert store.find(layer) == ["stays"]
    monkeypatch.undo()
    assert not any((store.blobs / name).exists() for name in gone)


def test_a_layer_that_vanishes(store: Store) -> None:
    layer = os.urandom(WINDOW)
    digest = store.add(layer)
    store.add_manifest(labelled("gone", digest))
    (store.blobs / digest.partition(":")[2]).unlink()
    nothing_found(store, layer, 1, 1)


def symbolic_link(path: Path, target: Path) -> None:
    path.symlink_to(target)


def pipe(path: Path, _target: Path) -> None:
    os.mkfifo(path)


def dangling_link(path: Path, target: Path) -> None:
    path.symlink_to(target.with_name("nothing"))


irregular = pytest.mark.parametrize("make", [symbolic_link, dangling_link, pipe, directory])


@irregular
def test_a_manifest_that_is_no_regular_file(
    make: Callable[[Path, Path], None], store: Store, opened: list[str], tmp_path: Path
) -> None:
    layer = os.urandom(WINDOW)
    text = manifest(labelled("outside", store.add(layer)))
    (tmp_path / "outside").write_bytes(text)
    name = hashlib.sha256(text).hexdigest()
    make(store.blobs / name, tmp_path / "outside")
    nothing_found(store, layer, 0, 0)
    assert name not in opened


@irregular
def test_a_layer_that_is_no_regular_file(
    make: Callable[[Path, Path], None], store: Store, keys: Path, tmp_path: Path
) -> None:
    layer = encrypted(PLAINTEXT)
    (tmp_path / "outside").write_bytes(layer.ciphertext)
    name = hashlib.sha256(layer.ciphertext).hexdigest()
    make(store.blobs / name, tmp_path / "outside")
    store.add_manifest(descriptor_of(layer, f"sha256:{name}"))
    fails(decode(store, layer, keys), 3, NOTHING_FOUND, "1 such layers compared")


def test_the_store_is_left_as_it_is(store: Store, keys: Path) -> None:
    layer = encrypted(PLAINTEXT)
    store.add_image(layer)

    def state() -> list[tuple[Path, int, int, int]]:
        paths = sorted(store.root.rglob("*"))
        return [(path, (s := path.stat()).st_mtime_ns, s.st_ctime_ns, s.st_size) for path in [store.root, *paths]]

    before = state()
    assert decode(store, layer, keys) == (0, PLAINTEXT, "")
    assert state() == before
