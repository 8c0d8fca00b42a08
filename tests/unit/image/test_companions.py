"""Attestations, layers in zstd, and recipients of many images."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

import pytest
import zstandard

from tests.support.image import images, layouts
from tests.support.image.command import done, files_below, image, oci
from tests.support.image.images import Layout

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.keys.keypairs import KeyPair

ZSTD = images.TAR + "+zstd"


def test_attestations_are_kept_and_named(tmp_path: Path, target: Layout, recipient: list[str], key: list[str]) -> None:
    source = layouts.recorded(tmp_path / "source")
    ended = done("encrypt", oci(source), oci(target), *recipient)
    before, after = layouts.manifests(source), layouts.manifests(target)
    attestations = [each["digest"] for each in before[2:]]
    assert (
        f"2 attestations (SBOM, provenance) describe the plain layers and stay readable: {', '.join(attestations)}"
        in ended.errors
    )
    assert [each["digest"] for each in after[2:]] == attestations
    for each in (descriptor for manifest in before[2:] for descriptor in layouts.layers_of(source, manifest)):
        assert target.read(each) == source.read(each)
    assert [each["annotations"][layouts.ATTESTED] for each in before[2:]] == [each["digest"] for each in before[:2]]
    assert [each["annotations"][layouts.ATTESTED] for each in after[2:]] == [each["digest"] for each in after[:2]]
    back = Layout(tmp_path / "back")
    done("decrypt", oci(target), oci(back), *key)
    for old, new in zip(before[:2], layouts.manifests(back)[:2], strict=True):
        assert layouts.layers_of(back, new) == layouts.layers_of(source, old)


def test_an_attestation_of_a_manifest_in_an_inner_index_names_its_new_digest(
    tmp_path: Path, target: Layout, recipient: list[str]
) -> None:
    source = Layout(tmp_path / "source")
    one = layouts.add_image(source, "amd64", [layouts.tar("one")])
    inner = layouts.add_index(source, one)
    layouts.publish(source, layouts.add_index(source, inner, layouts.add_attestation(source, one)))
    done("encrypt", oci(source), oci(target), *recipient)
    inside, attestation = layouts.manifests(target)
    (new,) = target.read_json(inside)["manifests"]
    assert new["digest"] != one["digest"]
    assert attestation["annotations"][layouts.ATTESTED] == new["digest"]


def test_attestations_are_dropped(tmp_path: Path, target: Layout, recipient: list[str], key: list[str]) -> None:
    source = layouts.recorded(tmp_path / "source")
    attestations = layouts.manifests(source)[2:]
    statements = [each["digest"] for manifest in attestations for each in layouts.layers_of(source, manifest)]
    assert len(set(statements)) == 4
    ended = done("encrypt", oci(source), oci(target), *recipient, "--attestations", "drop")
    assert "attestations" not in ended.errors
    assert [each["platform"]["architecture"] for each in layouts.manifests(target)] == ["amd64", "arm64"]
    assert not {f"blobs/sha256/{each.partition(':')[2]}" for each in statements} & set(files_below(target.directory))
    done("check", "--require-encrypted", "all", "--verify", oci(target), *key)


def test_referrers_in_a_layout_are_named(small: Layout, target: Layout, recipient: list[str]) -> None:
    (root,) = json.loads((small.directory / "index.json").read_bytes())["manifests"]
    subject = {name: root[name] for name in ("mediaType", "digest", "size")}
    signature = layouts.add_artifact(small, "application/vnd.oci.empty.v1+json", (b"s", "text/plain"), subject=subject)
    name = {"org.opencontainers.image.ref.name": "app"}
    layouts.write_index(small.directory, {**root, "annotations": name}, signature, small.add(b"a note", "text/plain"))
    ended = done("encrypt", oci(small, "app"), oci(target), *recipient)
    assert f"not copied, because they are about the plain image: {signature['digest']}" in ended.errors


@pytest.fixture
def zstd_image(tmp_path: Path) -> Layout:
    """An image of a layer in zstd, in two frames, and one in gzip."""
    layout = Layout(tmp_path / "zstd")
    value = layout.read_json(layouts.add_image(layout, "amd64", [layouts.tar("first"), layouts.tar("second")]))
    tar = layouts.tar("first")
    frames = [zstandard.ZstdCompressor().compress(part) for part in (tar[:700], tar[700:])]
    annotations = {"io.github.containers.zstd-chunked.manifest-checksum": "x", "kept": "yes"}
    value["layers"][0] = {**layout.add(b"".join(frames), ZSTD), "annotations": annotations}
    return layouts.publish(layout, layout.add(layouts.to_json(value), layouts.MANIFEST))


def test_zstd_is_warned_about(zstd_image: Layout, target: Layout, recipient: list[str]) -> None:
    ended = done("encrypt", oci(zstd_image), oci(target), *recipient)
    assert "layer 0 (linux/amd64): compressed with zstd" in ended.errors
    assert "ctd-decoder config containerd" in ended.errors
    assert "warning" not in done("encrypt", oci(zstd_image), oci(target), *recipient, "--layer", "1").errors


def test_zstd_is_refused_for_confidential_containers(zstd_image: Layout, target: Layout) -> None:
    ended = image("encrypt", oci(zstd_image), oci(target), "--recipient", "provider:attestation-agent")
    assert (ended.status, "--recompress gzip" in ended.errors) == (2, True)
    assert not (target.directory / "index.json").exists()


@pytest.mark.parametrize(("name", "is_first"), [("aaa", True), ("attestation-agent-2", False), ("zzz", False)])
def test_guests_see_the_first_keyprovider_alone(
    gzipped: Layout, target: Layout, tmp_path: Path, name: str, is_first: bool
) -> None:
    keypath = tmp_path / "image_key"
    keypath.write_bytes(bytes(range(32)))
    sample = tmp_path / "sample.key"
    sample.touch(0o600)
    sample.write_bytes(bytes(range(32)))
    config = tmp_path / "keyproviders.json"
    config.write_text(json.dumps({"key-providers": {name: {"native": "local", "key": str(sample)}}}))
    ended = done(
        "encrypt",
        *("--recipient", f"provider:attestation-agent:keyid=kbs:///a/b/c::keypath={keypath}"),
        *("--recipient", f"provider:{name}", "--keyprovider-config", config),
        oci(gzipped),
        oci(target),
    )
    warning = f"read only the first keyprovider annotation, 'provider.{name}'"
    assert (warning in ended.errors) == is_first


def test_zstd_that_is_encrypted_already_is_refused(
    zstd_image: Layout, target: Layout, recipient: list[str], key: list[str], keys: dict[str, KeyPair]
) -> None:
    done("encrypt", oci(zstd_image), oci(target), *recipient)
    before = files_below(target.directory)
    guests = ["--recipient", "provider:attestation-agent", *key]
    other = ["--recipient", f"jwe:{keys['p384'].public}", *key]
    for ended in (
        image("encrypt", "--in-place", oci(target), *guests),
        image("rewrap", oci(target), *guests),
        image("encrypt", "--in-place", oci(target), *other, "--recompress", "gzip"),
    ):
        assert ended.status == 2
        assert "layer 0 (linux/amd64): it is compressed with zstd" in ended.errors
        assert "encrypt it again with --recompress gzip" in ended.errors
    assert files_below(target.directory) == before
    done("rewrap", oci(target), *other)


def test_zstd_becomes_gzip(
    zstd_image: Layout, target: Layout, recipient: list[str], key: list[str], tmp_path: Path
) -> None:
    ended = done("encrypt", oci(zstd_image), oci(target), *recipient, "--recompress", "gzip")
    assert "same diff ID" in ended.errors
    assert [each["mediaType"] for each in target.layers] == [f"{images.GZIP}+encrypted"] * 2
    assert {name for name in target.layers[0]["annotations"] if "enc" not in name} == {"kept"}
    back = Layout(tmp_path / "back")
    done("decrypt", oci(target), oci(back), *key)
    assert gzip.decompress(back.read(back.layers[0])) == layouts.tar("first")
    assert back.read(back.layers[1]) == zstd_image.read(zstd_image.layers[1])


def test_a_layer_that_is_not_what_its_diff_id_says_is_not_converted(
    zstd_image: Layout, target: Layout, recipient: list[str]
) -> None:
    value = zstd_image.manifest
    for blob, status in ((zstandard.ZstdCompressor().compress(layouts.tar("other")), 5), (b"no zstd", 7)):
        value["layers"][0] = zstd_image.add(blob, ZSTD)
        layouts.publish(zstd_image, zstd_image.add(layouts.to_json(value), layouts.MANIFEST))
        ended = image("encrypt", oci(zstd_image), oci(target), *recipient, "--recompress", "gzip")
        assert ended.status == status, ended.errors
        assert not (target.directory / "index.json").exists()


def test_recipients_of_all_images_of_a_layout(
    small: Layout, target: Layout, recipient: list[str], key: list[str], keys: dict[str, KeyPair]
) -> None:
    done("encrypt", oci(small), oci(target, "one"), *recipient)
    done("encrypt", oci(small), oci(target, "two"), *recipient, "--layer", "0")
    done("decrypt", oci(target, "two"), oci(target, "plain"), *key)
    before = files_below(target.directory)
    added = ["--recipient", f"jwe:{keys['p384'].public}"]

    dry = done("rewrap", "--dry-run", oci(target), *added, *key, "--json").value
    assert [each["action"] for each in dry["images"]] == ["would change", "would change", "not encrypted"]
    assert files_below(target.directory) == before

    ended = done("rewrap", oci(target), *added, *key)
    assert [line.split()[1] for line in ended.output.splitlines()[1:3]] == ["changed", "changed"]
    new_key = ["--key", str(keys["p384"].private)]
    for name in ("one", "two"):
        for options in (key, new_key):
            done("check", "--require-encrypted", "any", oci(target, name), *options)
    layers = [name for name, data in before.items() if name.startswith("blobs/") and data[:1] != b"{"]
    assert set(layers) <= set(files_below(target.directory))

    again = done("rewrap", oci(target), *added, *key, "--json").value
    assert sorted(each["action"] for each in again["images"]) == ["not encrypted", "unchanged", "unchanged"]

    removed = done("rewrap", oci(target, "one"), "--remove-recipient", "jwe:P-256", *new_key)
    assert "removing a recipient does not revoke access" in removed.errors
    assert image("check", oci(target, "one"), *key).status == 4
    wrong = image("rewrap", oci(target), *recipient, "--key", str(keys["rsa2048"].private), "--json")
    assert wrong.status == 4
    assert sorted(each["action"] for each in wrong.value["images"]) == ["failed", "failed", "not encrypted"]


def test_a_place_without_an_encrypted_image_is_no_success(
    small: Layout, target: Layout, recipient: list[str], key: list[str]
) -> None:
    ended = image("rewrap", oci(small), *recipient, *key, "--json")
    assert ended.status == 2
    (found,) = ended.value["images"]
    assert (found["action"], "no image there is encrypted" in found["reason"]) == ("not encrypted", True)
    done("encrypt", oci(small), oci(target, "one"), *recipient)
    assert image("rewrap", oci(target), oci(small), *recipient, *key).status == 2


def test_an_encrypted_layer_of_an_unknown_type_is_no_success(
    small: Layout, target: Layout, recipient: list[str], key: list[str]
) -> None:
    done("encrypt", oci(small), oci(target), *recipient)
    value = target.manifest
    value["layers"][0]["mediaType"] = "application/vnd.example.layer+encrypted"
    layouts.publish(target, target.add(layouts.to_json(value), layouts.MANIFEST))
    ended = image("rewrap", oci(target), *recipient, *key, "--json")
    assert (ended.status, ended.value["images"][0]["action"]) == (4, "failed")
    assert "does not know its media type" in ended.value["images"][0]["reason"]
