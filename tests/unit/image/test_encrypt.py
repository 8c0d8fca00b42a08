"""`image encrypt`: what is encrypted, what stays, and what is reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from decoder import keywrap
from decoder.formats import wire
from decoder.image.manifest import PLAIN_LAYERS
from decoder.keys.keyring import DecryptConfig, Keyring
from decoder.layer import annotations as layer
from tests.support.image import images, layouts
from tests.support.image.command import blobs, done, files_below, image, oci
from tests.support.image.encrypting import provider_config
from tests.support.image.images import Layout

if TYPE_CHECKING:
    from tests.support.keys.keypairs import KeyPair

ENCRYPTED = layer.OCI_TAR + "+gzip" + layer.ENCRYPTED


def types(layout: Layout, manifest: layouts.Descriptor) -> list[str]:
    return [each["mediaType"] for each in layouts.layers_of(layout, manifest)]


def test_every_platform_is_encrypted_and_attestations_stay(
    tmp_path: Path, target: Layout, recipient: list[str], key: list[str]
) -> None:
    source = layouts.two_platforms(tmp_path / "source")
    done("encrypt", oci(source), oci(target), *recipient)
    amd64, arm64, *attestations = layouts.manifests(target)
    assert types(target, amd64) == [ENCRYPTED] * 3
    assert types(target, arm64) == [ENCRYPTED] * 2
    shared = [layouts.layers_of(target, each)[0] for each in (amd64, arm64)]
    assert shared[0] == shared[1]
    old = layouts.manifests(source)
    assert [each["digest"] for each in attestations] == [each["digest"] for each in old[2:]]
    assert [each["annotations"][layouts.ATTESTED] for each in attestations] == [amd64["digest"], arm64["digest"]]
    assert [each["platform"] for each in layouts.manifests(target)] == [each["platform"] for each in old]

    back = Layout(tmp_path / "back")
    done("decrypt", oci(target), oci(back), *key)
    for before, after in zip(old, layouts.manifests(back), strict=True):
        assert layouts.layers_of(back, after) == layouts.layers_of(source, before)
    assert back.read_json(json.loads((back.directory / "index.json").read_bytes())["manifests"][0])["annotations"]


def test_one_platform_is_chosen(tmp_path: Path, target: Layout, recipient: list[str]) -> None:
    source = layouts.two_platforms(tmp_path / "source")
    done("encrypt", oci(source), oci(target), *recipient, "--platform", "linux/arm64/v8")
    amd64, arm64, *_ = layouts.manifests(target)
    assert types(target, amd64) == [images.GZIP] * 3
    assert types(target, arm64) == [ENCRYPTED] * 2
    missing = image("encrypt", oci(source), oci(target), *recipient, "--platform", "linux/s390x")
    assert missing.status == 2
    assert "linux/amd64, linux/arm64" in missing.errors


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        (["0"], {0}),
        (["-1"], {2}),
        (["0-1"], {0, 1}),
        (["-2.."], {1, 2}),
        (["..0", "-1"], {0, 2}),
        (["1..-1"], {1, 2}),
    ],
)
def test_layers_are_chosen(
    options: list[str], numbers: set[int], gzipped: Layout, target: Layout, recipient: list[str]
) -> None:
    chosen = [part for option in options for part in ("--layer", option)]
    done("encrypt", oci(gzipped), oci(target), *recipient, *chosen)
    found = {number for number, each in enumerate(target.layers) if each["mediaType"] == ENCRYPTED}
    assert found == numbers


def test_a_layer_out_of_range_is_refused_for_any_platform(tmp_path: Path, target: Layout, recipient: list[str]) -> None:
    source = layouts.two_platforms(tmp_path / "source")
    for option in ("2", "-3", "1-2", "2-1"):
        ended = image("encrypt", oci(source), oci(target), *recipient, "--layer", option)
        assert ended.status == 2
        assert f"--layer {option} is out of range" in ended.errors
        assert "linux/arm64 has 2 layers" in ended.errors or option == "2-1"
    assert not (target.directory / "index.json").exists()


def test_layers_of_the_base_are_skipped_however_compressed(
    tmp_path: Path, target: Layout, recipient: list[str]
) -> None:
    source = layouts.two_platforms(tmp_path / "source")
    base = Layout(tmp_path / "base")
    tars = [layouts.tar("base")]
    both = [layouts.add_image(base, name, tars, images.TAR) for name in ("amd64", "arm64")]
    layouts.publish(base, layouts.add_index(base, *both))
    done("encrypt", oci(source), oci(target), *recipient, "--skip-base", oci(base))
    amd64, arm64, *_ = layouts.manifests(target)
    assert types(target, amd64) == [images.GZIP, ENCRYPTED, ENCRYPTED]
    assert types(target, arm64) == [images.GZIP, ENCRYPTED]

    other = Layout(tmp_path / "other")
    layouts.publish(other, layouts.add_image(other, "amd64", [layouts.tar("else")]))
    for options, reason in (([], "does not start with"), (["--platform", "linux/arm64"], "is not for linux/arm64")):
        ended = image("encrypt", oci(source), oci(target), *recipient, "--skip-base", oci(other), *options)
        assert ended.status == 2
        assert reason in ended.errors


def test_unknown_members_and_layers_stay(tmp_path: Path, target: Layout, recipient: list[str], key: list[str]) -> None:
    source = Layout(tmp_path / "source")
    subject = {"mediaType": layouts.MANIFEST, "digest": f"sha256:{'a' * 64}", "size": 7}
    members: dict[str, Any] = {
        "subject": subject,
        "artifactType": "application/x",
        "annotations": {"a": "b"},
        "unknown": [1, {}],
    }
    manifest = layouts.add_image(source, "amd64", [layouts.tar("one")], **members)
    value = source.read_json(manifest)
    value["layers"][0] |= {"annotations": {"kept": "yes"}, "x": 1, "data": "AAAA", "urls": ["http://localhost/"]}
    value["layers"].append(source.add(b"wasm", "application/wasm"))
    layouts.publish(source, source.add(layouts.to_json(value), layouts.MANIFEST))
    ended = done("encrypt", oci(source), oci(target), *recipient, "--allow-plain", "application/wasm")
    assert "layer 1 (linux/amd64) stays as it is: application/wasm has no encrypted form" in ended.errors
    new = target.manifest
    assert {name: new[name] for name in members} == members
    assert new["layers"][1] == value["layers"][1]
    first = new["layers"][0]
    assert (first["x"], first["annotations"]["kept"]) == (1, "yes")
    assert not {"data", "urls"} & set(first)
    back = Layout(tmp_path / "back")
    done("decrypt", oci(target), oci(back), *key)
    assert back.manifest["layers"][0] == {
        name: item for name, item in value["layers"][0].items() if name not in ("data", "urls")
    }


@pytest.mark.parametrize("media_type", sorted(PLAIN_LAYERS))
def test_every_layer_type_becomes_that_of_oci(
    media_type: str, gzipped: Layout, tmp_path: Path, target: Layout, recipient: list[str]
) -> None:
    source = Layout(tmp_path / "source")
    layers = [source.add(gzipped.read(each), media_type) for each in gzipped.layers[:1]]
    config = source.add(layouts.to_json({}), "application/vnd.docker.container.image.v1+json")
    docker = "application/vnd.docker.distribution.manifest.v2+json"
    manifest = {"schemaVersion": 2, "mediaType": docker, "config": config, "layers": layers}
    layouts.publish(source, source.add(layouts.to_json(manifest), docker))
    done("encrypt", oci(source), oci(target), *recipient)
    assert target.manifest["mediaType"] == layouts.MANIFEST
    assert target.manifest["config"]["mediaType"] == layouts.CONFIG
    (descriptor,) = target.layers
    compression = next((suffix for suffix in ("gzip", "zstd") if media_type.endswith(suffix)), "")
    assert descriptor["mediaType"] == layer.OCI_TAR + (compression and f"+{compression}") + layer.ENCRYPTED


def test_nothing_is_silently_not_done(
    gzipped: Layout, target: Layout, recipient: list[str], key: list[str], tmp_path: Path
) -> None:
    not_encrypted = done("decrypt", oci(gzipped), oci(target, "copy"), *key)
    assert not_encrypted.errors.count("is not encrypted, and stays as it is") == 3
    assert "no layer was changed" in not_encrypted.errors
    assert blobs(target) == blobs(gzipped)
    encrypted = Layout(tmp_path / "encrypted")
    done("encrypt", oci(gzipped), oci(encrypted), *recipient)
    before = files_below(encrypted.directory)
    twice = image("encrypt", oci(encrypted), oci(encrypted, "twice"), *recipient)
    assert (twice.status, twice.output) == (4, "")
    assert "encrypted already; to add recipients, pass a --key" in twice.errors
    assert files_below(encrypted.directory) == before


def test_a_recipient_that_may_be_another_is_added(
    gzipped: Layout, target: Layout, keys: dict[str, KeyPair], tmp_path: Path
) -> None:
    """What was removed in the same run, another key of the same keyprovider, and what no name tells from others."""
    environment = provider_config(tmp_path)
    first, key = f"jwe:{keys['p256'].public}", ["--key", str(keys["p256"].private)]
    done(
        "encrypt",
        oci(gzipped),
        oci(target),
        "--recipient",
        first,
        "--recipient",
        "provider:files:one.key",
        **environment,
    )
    value = target.manifest
    for each in value["layers"]:
        name = layer.KEYS_PREFIX + "jwe"
        jwe = json.loads(wire.decode_base64(each["annotations"][name]))
        del jwe["header"]["kid"]
        each["annotations"][name] = wire.encode_base64(json.dumps(jwe).encode())
    layouts.publish(target, target.add(layouts.to_json(value), layouts.MANIFEST))
    options = ["--recipient", first, "--recipient", "provider:files:two.key", "--remove-recipient", "provider:files"]
    ended = done("encrypt", oci(target), oci(target), *options, *key, "--json", **environment)
    assert not any("already" in remark for remark in ended.value["remarks"])
    found = done("layerinfo", oci(target), "--json").value["layers"][0]["recipients"]
    assert [each["scheme"] for each in found] == ["jwe", "jwe", "provider.files"]


def test_warnings_of_a_keyprovider_are_shown_once(gzipped: Layout, target: Layout, tmp_path: Path) -> None:
    environment = provider_config(tmp_path, unknown=1)
    recipient = ["--recipient", "provider:files:one.key"]
    ended = done("encrypt", oci(gzipped), oci(target), *recipient, **environment)
    lines = [line for line in ended.errors.splitlines() if "warning" in line]
    assert len(lines) == 1
    assert "unknown" in lines[0]
    failed = image("encrypt", oci(gzipped), oci(target), "--recipient", "provider:files:absent.key", **environment)
    assert failed.status == 6
    assert [line for line in failed.errors.splitlines() if "warning" in line] == lines, failed.errors


def test_what_is_written_opens_as_a_whole(gzipped: Layout, target: Layout, keys: dict[str, KeyPair]) -> None:
    done("encrypt", oci(gzipped), oci(target), "--recipient", f"jwe:{keys['p256'].public}", "--no-verify")
    found = Keyring()
    found.add("key", keys["p256"].private.read_bytes())
    for plain, encrypted in zip(gzipped.layers, target.layers, strict=True):
        assert keywrap.unwrap_any(encrypted["annotations"], DecryptConfig(found)).digest == plain["digest"]
        assert encrypted["size"] == plain["size"] == len(target.read(encrypted))
        assert images.digest_of(target.read(encrypted)) == encrypted["digest"]


def test_names_in_a_layout_stay(gzipped: Layout, target: Layout, recipient: list[str]) -> None:
    for name in ("one", "two:with:colons", "one"):
        done("encrypt", oci(gzipped), oci(target, name), *recipient)
    done("encrypt", oci(gzipped), oci(target), *recipient)
    entries = json.loads((target.directory / "index.json").read_bytes())["manifests"]
    names = [each.get("annotations", {}).get("org.opencontainers.image.ref.name") for each in entries]
    assert names == ["two:with:colons", "one", None]
    assert image("layerinfo", oci(target)).status == 7
    assert "holds several images; their names are 'two:with:colons', 'one'" in image("layerinfo", oci(target)).errors
    done("layerinfo", oci(target, "two:with:colons"))
