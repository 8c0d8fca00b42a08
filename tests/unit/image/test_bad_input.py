"""Images and command lines that are refused, with a reason, and with nothing changed at the destination."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.image import images, layouts
from tests.support.image.command import blobs, done, files_below, image, oci
from tests.support.image.images import Layout

if TYPE_CHECKING:
    from tests.support.keys.keypairs import KeyPair


@pytest.fixture
def recipient(keys: dict[str, KeyPair]) -> list[str]:
    return ["--recipient", f"jwe:{keys['p256'].public}"]


@pytest.fixture
def source(tmp_path: Path) -> Layout:
    """An image of our own, to be damaged."""
    layout = Layout(tmp_path / "source")
    return layouts.publish(layout, layouts.add_image(layout, "amd64", [layouts.tar("one"), images.rootfs_layers()[1]]))


def path_of(layout: Layout, descriptor: dict[str, Any]) -> Path:
    return layout.directory / "blobs" / str(descriptor["digest"]).replace(":", "/")


def assert_refused(source: str, target: Layout, recipient: list[str], status: int, *reasons: str) -> None:
    ended = image("encrypt", source, oci(target), *recipient)
    assert ended.status == status, ended.errors
    for reason in reasons:
        assert reason in ended.errors
    assert not (target.directory / "index.json").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "no recipient was given"),
        (["--recipient", "jew:x"], "did you mean jwe:?"),
        (
            ["--recipient", "pkcs12:x"],
            "jwe:FILE, pkcs7:FILE, pgp:EMAIL|KEYID|FINGERPRINT, pkcs11:FILE or provider:NAME",
        ),
        (["--recipient", "key.pem"], "names no protocol"),
        (["--recipient", "jwe:"], "has no value"),
        (["--recipient", "jwe:/nonexistent"], "No such file"),
        (["--recipient", "provider::x"], "names no keyprovider"),
        (["--recipient", "provider:absent"], "no keyprovider 'absent' is configured"),
        (["--layer", "x", "--recipient", "jwe:x"], "is neither a layer number"),
        (["--platform", "linux", "--recipient", "jwe:x"], "is not of the form os/arch"),
        (["--gpg-homedir", "x", "--gpg-keyring", "x"], "not allowed with"),
        (["--unknown"], "unknown option '--unknown'"),
        (["--key", "/nonexistent", "--remove-recipient", "jwe"], "No such file"),
        (["--remove-recipient", "jwe"], "needs a --key"),
    ],
)
def test_command_lines_that_cannot_be_understood(
    options: list[str], reason: str, gzipped: Layout, target: Layout, keys: dict[str, KeyPair]
) -> None:
    options = [option.replace("jwe:x", f"jwe:{keys['p256'].public}") for option in options]
    assert_refused(oci(gzipped), target, options, 2, reason)


def test_a_layer_out_of_range_is_not_decrypted(gzipped: Layout, target: Layout, keys: dict[str, KeyPair]) -> None:
    ended = image("decrypt", oci(gzipped), oci(target), "--key", keys["p256"].private, "--layer", "3")
    assert (ended.status, "--layer 3 is out of range" in ended.errors) == (2, True)
    assert not (target.directory / "index.json").exists()


def test_a_public_key_is_no_certificate(gzipped: Layout, target: Layout, keys: dict[str, KeyPair]) -> None:
    options = ["--recipient", f"pkcs7:{keys['rsa2048'].public}"]
    assert_refused(oci(gzipped), target, options, 2, "it is only a public key, and PKCS#7 needs a certificate")


@pytest.mark.parametrize(
    ("place", "status", "reason"),
    [
        ("oic:x", 2, "did you mean oci:?"),
        ("oci:", 2, "not of the form oci:DIR[:REF]"),
        ("oci:x:", 2, "not of the form oci:DIR[:REF]"),
        ("oci-archive:", 2, "not of the form oci-archive:FILE[:REF]"),
        ("oci:/nonexistent", 7, "'/nonexistent' is not an OCI layout: there is no file"),
        ("oci-archive:/nonexistent", 7, "No such file"),
        ("oci-archive:/dev/null", 7, "neither a regular file nor a pipe"),
    ],
)
def test_sources_that_are_not_there(place: str, status: int, reason: str, target: Layout, recipient: list[str]) -> None:
    assert_refused(place, target, recipient, status, reason)


def test_a_missing_reference(gzipped: Layout, target: Layout, recipient: list[str]) -> None:
    assert_refused(oci(gzipped, "else"), target, recipient, 7, "no image 'else'; their names are 'greeting'")


def test_targets_that_cannot_be_written(gzipped: Layout, tmp_path: Path, recipient: list[str]) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("kept")
    for place, status in (("oci:file", 7), ("oci:full", 7), ("oci-archive:full", 7), ("docker-archive:file", 2)):
        transport, _, name = place.partition(":")
        assert image("encrypt", oci(gzipped), f"{transport}:{tmp_path / name}", *recipient).status == status
    assert files_below(tmp_path) == {"file": b"kept", "full/file": b"kept"}


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("damage", ["flipped", "short", "long", "absent"])
def test_a_damaged_layer_is_noticed_while_it_is_read(
    damage: str, number: int, source: Layout, target: Layout, recipient: list[str]
) -> None:
    path = path_of(source, source.layers[number])
    data = path.read_bytes()
    if damage == "absent":
        path.unlink()
    else:
        path.write_bytes(
            {"flipped": data[:-1] + bytes([data[-1] ^ 1]), "short": data[:-1], "long": data + b"x"}[damage]
        )
    digest = source.layers[number]["digest"]
    status = 7 if damage == "absent" else 5
    for options in ([], ["--layer", str(1 - number)]):  # encrypted, and copied
        assert_refused(oci(source), target, [*recipient, *options], status, digest.removeprefix("sha256:"))
    assert digest.removeprefix("sha256:") not in "".join(files_below(target.directory))


@pytest.mark.parametrize("number", [0, 1])
def test_a_damaged_layer_of_an_archive(
    number: int, source: Layout, tmp_path: Path, target: Layout, recipient: list[str]
) -> None:
    whole, blob = source.archive(), source.read(source.layers[number])
    assert whole.count(blob) == 1
    (tmp_path / "damaged.tar").write_bytes(whole.replace(blob, blob[:-1] + bytes([blob[-1] ^ 1])))
    assert_refused(f"oci-archive:{tmp_path}/damaged.tar", target, recipient, 5, source.layers[number]["digest"])


def test_damaged_manifests_and_configurations(source: Layout, target: Layout, recipient: list[str]) -> None:
    (root,) = json.loads((source.directory / "index.json").read_bytes())["manifests"]
    for descriptor in (root, source.manifest["config"]):
        path = path_of(source, descriptor)
        data = path.read_bytes()
        path.write_bytes(data.replace(b"linux", b"Linux") if b"linux" in data else data.replace(b"2,", b"3,"))
        assert_refused(oci(source), target, recipient, 5, descriptor["digest"], "damaged")
        path.write_bytes(data)


def test_an_encrypted_layer_that_was_changed_does_not_decrypt(
    source: Layout, tmp_path: Path, target: Layout, recipient: list[str], keys: dict[str, KeyPair]
) -> None:
    encrypted = Layout(tmp_path / "encrypted")
    done("encrypt", oci(source), oci(encrypted), *recipient)
    value = encrypted.manifest
    old = value["layers"][0]
    data = bytearray(encrypted.read(old))
    data[0] ^= 1
    value["layers"][0] = {**old, **encrypted.add(bytes(data), old["mediaType"])}  # the digest fits, the HMAC does not
    layouts.publish(encrypted, encrypted.add(layouts.to_json(value), layouts.MANIFEST))
    ended = image("decrypt", oci(encrypted), oci(target), "--key", keys["p256"].private)
    assert (ended.status, "HMAC differs" in ended.errors) == (5, True)
    assert not (target.directory / "index.json").exists()


@pytest.mark.parametrize(
    "digest", ["sha256:../../../../etc/passwd", "sha256:" + "A" * 64, "md5:" + "0" * 32, "sha256:", 7, None]
)
def test_digests_are_checked_before_they_become_names(
    digest: object, source: Layout, target: Layout, recipient: list[str]
) -> None:
    value = source.manifest
    value["layers"][0]["digest"] = digest
    layouts.publish(source, source.add(layouts.to_json(value), layouts.MANIFEST))
    assert_refused(oci(source), target, recipient, 7, "is not a sha256 or sha512 digest")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"size": -1}, "no media type or no size"),
        ({"size": "1"}, "no media type or no size"),
        ({"mediaType": None}, "no media type or no size"),
        ({"annotations": {"a": 1}}, "malformed annotations"),
    ],
)
def test_malformed_descriptors(
    change: dict[str, Any], reason: str, source: Layout, target: Layout, recipient: list[str]
) -> None:
    value = source.manifest
    value["layers"][0] |= change
    layouts.publish(source, source.add(layouts.to_json(value), layouts.MANIFEST))
    assert_refused(oci(source), target, recipient, 7, reason)


def test_a_manifest_that_is_also_an_index(source: Layout, target: Layout, recipient: list[str]) -> None:
    value = {**source.manifest, "manifests": []}
    layouts.publish(source, source.add(layouts.to_json(value), layouts.MANIFEST))
    assert_refused(oci(source), target, recipient, 7, "is not the")


def test_indexes_that_point_to_each_other_or_too_deep(source: Layout, target: Layout, recipient: list[str]) -> None:
    one, other = (f"sha256:{letter * 64}" for letter in "ab")
    for own, named in ((one, other), (other, one)):
        index = {"schemaVersion": 2, "manifests": [{"mediaType": layouts.INDEX, "digest": named, "size": 200}]}
        (source.directory / "blobs" / own.replace(":", "/")).write_bytes(layouts.to_json(index).ljust(200))
    layouts.write_index(source.directory, {"mediaType": layouts.INDEX, "digest": one, "size": 200})
    assert_refused(oci(source), target, recipient, 5, "damaged")

    deep = layouts.add_image(source, "amd64", [])
    for _ in range(10):
        deep = layouts.add_index(source, deep)
    layouts.write_index(source.directory, deep)
    assert_refused(oci(source), target, recipient, 7, "nested more than")

    wide = layouts.add_image(source, "amd64", [])
    for _ in range(3):
        wide = layouts.add_index(source, *[wide] * 100)
    layouts.write_index(source.directory, wide)
    assert_refused(oci(source), target, recipient, 7, "more than 1024 manifests")


@pytest.mark.parametrize("name", ["../outside", "/outside", "blobs/../../outside"])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_archives_with_names_that_lead_out(
    name: str, kind: bytes, gzipped: Layout, tmp_path: Path, target: Layout, recipient: list[str]
) -> None:
    archive = io.BytesIO(gzipped.archive())
    with tarfile.open(fileobj=archive, mode="a") as tar:
        entry = tarfile.TarInfo(name if kind == tarfile.REGTYPE else "inside")
        entry.type, entry.linkname = kind, "" if kind == tarfile.REGTYPE else name
        tar.addfile(entry)
    (tmp_path / "tricky.tar").write_bytes(archive.getvalue())
    assert_refused(f"oci-archive:{tmp_path}/tricky.tar", target, recipient, 7, "leads out of it")
    assert not (tmp_path.parent / "outside").exists()


def test_archives_that_are_cut_short(gzipped: Layout, tmp_path: Path, target: Layout, recipient: list[str]) -> None:
    whole = gzipped.archive()
    path = tmp_path / "short.tar"
    for length in (0, 1, 511, 512, 513, 100_000, len(whole) // 2, len(whole) - 20_000):
        path.write_bytes(whole[:length])
        assert_refused(f"oci-archive:{path}", target, recipient, 7)
    path.write_bytes(b"\x1f\x8b" + whole)
    assert_refused(f"oci-archive:{path}", target, recipient, 7, "is damaged")


def test_an_archive_with_a_header_as_long_as_a_layer(tmp_path: Path, target: Layout, recipient: list[str]) -> None:
    entry = tarfile.TarInfo("header")
    entry.type, entry.size = tarfile.XHDTYPE, 1 << 30
    with (tmp_path / "long.tar").open("wb") as file:
        file.write(entry.tobuf(tarfile.GNU_FORMAT))
        file.truncate(1 << 31)
    assert_refused(f"oci-archive:{tmp_path}/long.tar", target, recipient, 7, "header that is longer")


def test_links_in_an_archive_that_go_round(tmp_path: Path, target: Layout, recipient: list[str]) -> None:
    with tarfile.open(tmp_path / "round.tar", "w") as tar:
        for name, to in (("index.json", "other"), ("other", "index.json")):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, to
            tar.addfile(entry)
    assert_refused(f"oci-archive:{tmp_path}/round.tar", target, recipient, 7, "links that lead too far")


def test_an_old_image_stays_when_the_new_one_fails(
    source: Layout, gzipped: Layout, tmp_path: Path, recipient: list[str]
) -> None:
    layout, archive = Layout(tmp_path / "layout"), tmp_path / "archive.tar"
    done("encrypt", oci(gzipped), oci(layout), *recipient)
    done("encrypt", oci(gzipped), f"oci-archive:{archive}", *recipient)
    index, packed, before = (layout.directory / "index.json").read_bytes(), archive.read_bytes(), blobs(layout)
    path_of(source, source.layers[1]).write_bytes(b"damaged")
    for place in (oci(layout), f"oci-archive:{archive}"):
        assert image("encrypt", oci(source), place, *recipient).status == 5
    assert (layout.directory / "index.json").read_bytes() == index
    assert blobs(layout) == before
    assert archive.read_bytes() == packed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive.tar", "layout", "source"]
