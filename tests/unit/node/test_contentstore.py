"""The look-up of a layer's descriptor in a content store, in stores that look like containerd's or are made to hurt."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from decoder import keywrap, limits
from decoder.errors import NoKeyError, PayloadError, WrappedKeyError
from decoder.keys.keyring import DecryptConfig, Keyring
from decoder.keywrap import jwe
from decoder.layer.annotations import KEYS_PREFIX
from decoder.node import process
from decoder.node.containerd import contentstore
from decoder.node.containerd.contentstore import BLOBS, Search
from decoder.node.containerd.storeroot import DEFAULT_ROOT, find_root
from tests.support.layers import MEDIA_TYPE, Layer, ec_key, encrypted, pem, private_options, public_pem, rsa_key
from tests.support.processes import PROGRAM, Result, payload_bytes, run_decoder

MIB = 1024 * 1024
WINDOW = limits.STORE_WINDOW_BYTES
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
TAR_TYPE = MEDIA_TYPE.replace("+gzip", "")
PLAINTEXT = bytes(range(256)) * 100
NOTHING_FOUND = "has no layer that begins like this one"


class Store:
    """A content store below a root directory; what is added later is newer, by ten seconds."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = root / BLOBS
        self.blobs.mkdir(parents=True)
        self._seconds = 1_000_000_000

    def add(self, blob: bytes) -> str:
        """Add a blob and return its digest."""
        return self.add_as(hashlib.sha256(blob).hexdigest(), blob)

    def add_as(self, name: str, blob: bytes) -> str:
        """Add a blob under a name that need not be its digest."""
        path = self.blobs / name
        path.write_bytes(blob)
        self._seconds += 10
        os.utime(path, (self._seconds, self._seconds))
        return f"sha256:{name}"

    def add_manifest(self, *layers: object, **members: object) -> str:
        """Add the manifest of an image, and return its digest."""
        return self.add(manifest(*layers, **members))

    def add_image(self, *layers: Layer, **members: object) -> str:
        """Add the blobs of layers and their manifest, and return its digest."""
        return self.add_manifest(*(descriptor_of(layer, self.add(layer.ciphertext)) for layer in layers), **members)

    def search(self, head: bytes, media_type: str = "") -> Search:
        return Search(str(self.root), head, media_type, "no payload came")

    def find(self, head: bytes, media_type: str = "") -> list[str]:
        """Return the wrapped keys of the descriptors that are found."""
        return [found.annotations[KEYS_PREFIX + "jwe"] for found in self.search(head[:WINDOW], media_type)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "root")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A keys directory with the RSA key."""
    directory = tmp_path / "keys"
    directory.mkdir()
    (directory / "key.pem").write_bytes(pem(rsa_key()))
    return directory


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of all that is opened from here on."""
    names: list[str] = []
    os_open = os.open

    def recording(path: Any, *arguments: Any, **options: Any) -> int:
        names.append(str(path))
        return os_open(path, *arguments, **options)

    monkeypatch.setattr(os, "open", recording)
    return names


def manifest(*layers: object, **members: object) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "layers": layers, **members}).encode()


def descriptor_of(layer: Layer, digest: str) -> dict[str, Any]:
    return {**layer.descriptor, "digest": digest, "size": len(layer.ciphertext)}


def labelled(label: str, digest: str, media_type: str = MEDIA_TYPE) -> dict[str, Any]:
    """Make a descriptor whose annotation tells which one it is."""
    return {"mediaType": media_type, "digest": digest, "annotations": {KEYS_PREFIX + "jwe": label}}


def wrapped_for(*public_keys: bytes) -> Layer:
    return encrypted(PLAINTEXT, {"jwe": [jwe.wrap(private_options(), list(public_keys))]})


def decode(store: Store, layer: Layer, keys: Path, *arguments: str, **how: Any) -> Result:
    options = ["--content-store", str(store.root), "--decryption-keys-path", str(keys), *arguments]
    return run_decoder(how.pop("payload", None), layer.ciphertext, *options, **how)


def fails(result: Result, status: int, *texts: str) -> None:
    assert (result.status, result.plaintext) == (status, b""), result.errors
    assert result.errors.startswith("ctd-decoder: error: ")
    for text in texts:
        assert text in result.errors


def nothing_found(store: Store, head: bytes, manifests: int, layers: int, media_type: str = "") -> None:
    counts = rf"\({manifests} manifests with encrypted layers were read, {layers} such layers compared\)"
    with pytest.raises(PayloadError, match=f"no payload came, and .*{NOTHING_FOUND} {counts}"):
        store.find(head, media_type)


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
    store.add_manifest(*(labelled(str(number), digest) for number in range(limits.STORE_CANDIDATES + 50)))
    assert len(store.find(b"layer")) == limits.STORE_CANDIDATES


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


def directory(path: Path, _target: Path) -> None:
    path.mkdir()


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


# Whose key opens it.


def keyless(layer: Layer, digest: str) -> dict[str, Any]:
    """Make a descriptor that names a layer without the wrapped key."""
    descriptor = descriptor_of(layer, digest)
    annotations = {name: text for name, text in descriptor["annotations"].items() if not name.startswith(KEYS_PREFIX)}
    return {**descriptor, "annotations": annotations}


def test_a_manifest_without_a_wrapped_key_is_named(store: Store, keys: Path) -> None:
    """An image that names another one's layer by its digest alone is decrypted: the operator learns of it."""
    layer = encrypted(PLAINTEXT)
    digest = store.add(layer.ciphertext)
    store.add_manifest(descriptor_of(layer, digest))
    other = store.add_manifest(keyless(layer, digest), author="somebody else")
    result = decode(store, layer, keys)
    assert (result.status, result.plaintext) == (0, PLAINTEXT)
    warning = f"the manifest {other} names the encrypted layer {digest} without a wrapped key"
    assert result.errors == f"ctd-decoder: warning: {warning}\n"


@pytest.mark.parametrize("is_option", [True, False])
def test_a_strict_search_fails_then(is_option: bool, store: Store, keys: Path, tmp_path: Path) -> None:
    layer = encrypted(PLAINTEXT)
    digest = store.add(layer.ciphertext)
    store.add_manifest(descriptor_of(layer, digest))
    (tmp_path / "conf").write_text('{"key-providers": {}, "strict-lookup": true}')
    how = ("--strict-lookup",) if is_option else ("--keyprovider-config", str(tmp_path / "conf"))
    assert decode(store, layer, keys, *how) == (0, PLAINTEXT, "")
    other = store.add_manifest(keyless(layer, digest), author="somebody else")
    store.add_manifest(descriptor_of(layer, digest), author="newer")
    result = decode(store, layer, keys, *how)
    fails(result, 3, f"--strict-lookup: the manifest {other} names the encrypted layer {digest} without a wrapped key")
    assert result.plaintext == b""


@pytest.mark.parametrize("text", ['{"strict-lookup": 1}', '{"strict-lookup": true', '["strict-lookup"]'])
def test_a_setting_that_cannot_be_read_fails(text: str, store: Store, keys: Path, tmp_path: Path) -> None:
    layer = encrypted(PLAINTEXT)
    store.add_image(layer)
    (tmp_path / "conf").write_text(text)
    fails(decode(store, layer, keys, "--keyprovider-config", str(tmp_path / "conf")), 3, "strict-lookup")


def test_no_manifest_has_a_wrapped_key(store: Store, keys: Path) -> None:
    layer = encrypted(PLAINTEXT)
    store.add_manifest(keyless(layer, store.add(layer.ciphertext)))
    fails(decode(store, layer, keys), 4, "its descriptor holds no wrapped key")


def test_a_denied_descriptor_does_not_deny_others(store: Store, keys: Path, tmp_path: Path) -> None:
    layer = encrypted(PLAINTEXT)
    digest = store.add(layer.ciphertext)
    store.add_manifest(descriptor_of(layer, digest))
    (tmp_path / "conf").write_text('{"deny": ["provider.*"]}')
    denied = descriptor_of(layer, digest)
    denied["annotations"] = {**denied["annotations"], f"{KEYS_PREFIX}provider.x": "e30="}
    store.add_manifest(denied)
    options = ("--keyprovider-config", str(tmp_path / "conf"))
    assert decode(store, layer, keys, *options) == (0, PLAINTEXT, "")
    alone = Store(tmp_path / "alone")
    alone.add(layer.ciphertext)
    alone.add_manifest(denied)
    fails(decode(alone, layer, keys, *options), 4, "is denied by the rule 'provider.*'")


def test_attempts_are_bounded_over_all_descriptors(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many manifests with many wrapped keys do not multiply the time that one layer may take."""
    layer = wrapped_for(*[public_pem(rsa_key())] * 4)
    digest = store.add(layer.ciphertext)
    for number in range(8):
        descriptor = descriptor_of(layer, digest)
        store.add_manifest({**descriptor, "annotations": {**descriptor["annotations"], "n": str(number)}})
    monkeypatch.setattr(limits, "UNWRAP_ATTEMPTS", 5)  # each descriptor takes one
    keyring = Keyring()
    keyring.add("other", pem(rsa_key(3072)))
    budget = keywrap.Budget()
    attempts = 0
    for found in store.search(layer.ciphertext[:WINDOW]):
        with pytest.raises(NoKeyError) as failure:
            keywrap.unwrap_any(found.annotations, DecryptConfig(keyring), "", budget)
        attempts += sum(attempt.key is not None for attempt in failure.value.attempts)
    assert attempts == 5
    assert "given up: no key opened the layer in 5 attempts" in str(failure.value)


def test_the_slowest_keyprovider_gets_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "UNWRAP_SECONDS", 0.0)
    monkeypatch.setattr(limits, "UNWRAP_EXTRA_SECONDS", 0.0)
    config = tmp_path / "keyproviders.json"
    for entries, seconds in (({"a": {"grpc": "x:1", "timeout": 600}, "b": {"grpc": "y:1"}}, 600), ({}, 0)):
        config.write_text(json.dumps({"key-providers": entries}))
        budget = keywrap.Budget(str(config))
        if seconds:
            budget.check()
            continue
        with pytest.raises(WrappedKeyError, match="no key opened the layer within 0 seconds"):
            budget.check()
    for file in ("", str(tmp_path / "missing")):
        with pytest.raises(WrappedKeyError):
            keywrap.Budget(file).check()


# How much is done.


def fill(store: Store, blobs: int) -> None:
    """Fill the store: a manifest, a configuration and eight layers for each image."""
    for number in range(blobs):
        member = "layers" if number % 10 == 0 else "history"
        json_text = json.dumps({member: [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"}], "n": number})
        store.add_as(f"{number:064x}", json_text.encode() if number % 10 < 2 else number.to_bytes(4, "big"))


def test_a_fresh_image_among_10_000_blobs(store: Store, opened: list[str], keys: Path) -> None:
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


# When it is looked for.


def test_a_payload_can_be_required(store: Store, keys: Path) -> None:
    layer = encrypted(PLAINTEXT)
    store.add_image(layer)
    for payload in (None, b""):
        fails(decode(store, layer, keys, "--require-payload", payload=payload), 3, "no payload came")
    good = payload_bytes(layer.descriptor, None)
    assert decode(store, layer, keys, "--require-payload", payload=good) == (0, PLAINTEXT, "")


def test_a_payload_wins(store: Store, keys: Path) -> None:
    layer = encrypted(PLAINTEXT)
    store.add_image(layer)
    other = payload_bytes(wrapped_for(public_pem(ec_key())).descriptor, None)
    fails(decode(store, layer, keys, payload=other), 4, "no key opens this layer")
    (store.blobs / "..").resolve().rename(store.root / "moved")
    assert decode(store, layer, keys, payload=payload_bytes(layer.descriptor, None)) == (0, PLAINTEXT, "")


@pytest.mark.parametrize("damage", [lambda good: good[:-1], lambda good: good[:1], lambda _: b"\0", lambda _: b"{}"])
def test_a_damaged_payload_is_an_error(damage: Callable[[bytes], bytes], store: Store, keys: Path) -> None:
    layer = encrypted(PLAINTEXT)
    store.add_image(layer)
    fails(decode(store, layer, keys, payload=damage(payload_bytes(layer.descriptor, None))), 3, "the payload")


def test_an_empty_payload_is_none(store: Store, keys: Path) -> None:
    layer = encrypted(PLAINTEXT)
    store.add_image(layer)
    assert decode(store, layer, keys, payload=b"") == (0, PLAINTEXT, "")
    store.blobs.rename(store.root / "moved")
    fails(decode(store, layer, keys, payload=b""), 3, "descriptor 3 is empty", "cannot be read")


# Where: the containerd that started us.


def script(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(["#!/bin/bash", *lines, ""]))
    path.chmod(0o755)
    return path


def containerd(tmp_path: Path, command_line: str, before: str = "", program: Path | None = None) -> str:
    """Write a program that starts ours as its child, and is called containerd by its command line."""
    inner = script(tmp_path / "inner", f'"{program or PROGRAM}" --decryption-keys-path "{tmp_path}/keys"', "exit $?")
    return str(script(tmp_path / "outer", before, f'exec -a containerd /bin/bash "{inner}" {command_line}'))


def started_by(program: str, layer: Layer) -> Result:
    return run_decoder(None, layer.ciphertext, program=program)


@pytest.mark.parametrize("form", ["--root {}", "--root={}", "-root {}", "--log-level debug --root {} --state x"])
def test_root_of_the_command_line(form: str, store: Store, keys: Path) -> None:
    layer = encrypted(PLAINTEXT)
    store.add_image(layer)
    program = containerd(keys.parent, form.format(store.root))
    assert started_by(program, layer) == (0, PLAINTEXT, "")


@pytest.mark.parametrize("form", ["--config {}", "--config={}", "-c {}", "-c={}"])
def test_root_of_the_configuration(form: str, store: Store, keys: Path) -> None:
    layer = encrypted(PLAINTEXT)
    store.add_image(layer)
    configuration = keys.parent / "config.toml"
    configuration.write_text(f'version = 2\nroot = "{store.root}"\n[grpc]\naddress = "x"\n')
    program = containerd(keys.parent, form.format(configuration))
    assert started_by(program, layer) == (0, PLAINTEXT, "")


def test_root_of_the_files_that_are_open(store: Store, keys: Path) -> None:
    layer = encrypted(PLAINTEXT)
    store.add_image(layer)
    blob = store.blobs / hashlib.sha256(layer.ciphertext).hexdigest()
    program = containerd(keys.parent, "--root /nonexistent", before=f'exec 9<"{blob}"')
    assert started_by(program, layer) == (0, PLAINTEXT, "")


def test_scripts_may_stand_between(store: Store, keys: Path) -> None:
    layer = encrypted(PLAINTEXT)
    store.add_image(layer)
    wrapper = script(keys.parent / "wrapper", f'"{PROGRAM}" "$@"', "exit $?")
    program = containerd(keys.parent, f"--root {store.root}", program=wrapper)
    assert started_by(program, layer) == (0, PLAINTEXT, "")


def test_an_option_comes_before_all_that(store: Store, keys: Path) -> None:
    layer = encrypted(PLAINTEXT)
    Store(keys.parent / "other").add_image(layer)
    wrapper = script(keys.parent / "wrapper", f'exec "{PROGRAM}" --content-store "{store.root}" "$@"')
    program = containerd(keys.parent, f"--root {keys.parent}/other", program=wrapper)
    fails(started_by(program, layer), 3, str(store.blobs), NOTHING_FOUND)


@pytest.mark.parametrize("text", ["version = 2", "root = 1", 'root = ""', "root = ", "\xff"])
def test_a_configuration_without_a_root(text: str, keys: Path) -> None:
    (keys.parent / "config.toml").write_text(text, encoding="latin-1")
    program = containerd(keys.parent, f"--config {keys.parent}/config.toml")
    fails(started_by(program, encrypted(PLAINTEXT)), 3, f"{DEFAULT_ROOT}/{BLOBS}")


def test_a_containerd_without_arguments() -> None:
    """As the units of distributions start it; here it is a shell that reads from standard input."""
    with subprocess.Popen(
        ["containerd"], executable="/bin/bash", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdin.write("sleep 60 & echo $!; wait\n")
        parent.stdin.flush()
        child = int(parent.stdout.readline())
        try:
            assert process.command_line(parent.pid) == ["containerd"]
            assert find_root(child) == DEFAULT_ROOT
        finally:
            os.kill(child, signal.SIGKILL)
            parent.stdin.close()


def test_the_default_root() -> None:
    assert find_root() == DEFAULT_ROOT
