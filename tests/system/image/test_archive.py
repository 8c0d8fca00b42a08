"""Archives of OCI layouts and of `docker save`, written and read by others too."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.image import images, layouts
from tests.support.image.command import blobs, done, image, oci, run
from tests.support.image.images import Layout, digest_of

if TYPE_CHECKING:
    from tests.support.keys.parties import Party


def test_skopeo_and_tar_read_what_ours_packs(
    gzipped: Layout, parties: dict[str, Party], target: Layout, tmp_path: Path
) -> None:
    archive = tmp_path / "image.tar"
    party = parties["jwe"]
    for _ in range(2):  # the second replaces the first
        done("encrypt", oci(gzipped), f"oci-archive:{archive}:secret:1", "--recipient", party.recipient)
    names = run("tar", "--list", "--file", archive).split()
    assert (names[-2:], len(names)) == (["index.json", "oci-layout"], 7)
    place = oci(target, "plain")
    run("skopeo", "--insecure-policy", "copy", *party.skopeo, f"oci-archive:{archive}:secret:1", place)
    assert blobs(target) == blobs(gzipped)


def test_ours_reads_what_skopeo_packs(
    gzipped: Layout, parties: dict[str, Party], target: Layout, tmp_path: Path
) -> None:
    party, archive = parties["jwe"], f"oci-archive:{tmp_path}/image.tar:secret"
    options = ["--encryption-key", party.recipient]
    run("skopeo", "--insecure-policy", "copy", *options, oci(gzipped, images.NAME), archive)
    done("decrypt", archive, oci(target), *party.ours)
    assert blobs(target) == blobs(gzipped)


def test_layers_of_one_content_in_an_archive(parties: dict[str, Party], target: Layout, tmp_path: Path) -> None:
    source, archive = Layout(tmp_path / "source"), tmp_path / "image.tar"
    tars = [layouts.tar("same"), layouts.tar("other")]
    pair = [layouts.add_image(source, name, tars, images.TAR) for name in ("amd64", "arm64")]
    layouts.publish(source, layouts.add_index(source, *pair))
    party = parties["jwe"]
    for number, platform in enumerate(("linux/amd64", "linux/arm64")):  # encrypted apart, so to different blobs
        place = oci(source) if number == 0 else oci(target)
        done("encrypt", place, oci(target), "--recipient", party.recipient, "--platform", platform)
    first, second = (layouts.layers_of(target, each)[0]["digest"] for each in layouts.manifests(target))
    assert first != second
    done("decrypt", oci(target), f"oci-archive:{archive}", *party.ours)
    info = done("layerinfo", f"oci-archive:{archive}", "--json").value
    assert [each["digest"] for each in info["layers"]] == [digest_of(each) for each in tars] * 2


@pytest.mark.parametrize("compressed", [False, True])
def test_ours_reads_what_docker_saves(
    compressed: bool, gzipped: Layout, parties: dict[str, Party], target: Layout, tmp_path: Path
) -> None:
    archive = tmp_path / "saved.tar"
    place = f"docker-archive:{archive}:localhost/image:one"
    run("skopeo", "--insecure-policy", "copy", oci(gzipped, images.NAME), place)
    if compressed:
        _compress_layers(archive)
    party = parties["jwe"]
    for source in (place, f"docker-archive:{archive}"):
        done("encrypt", source, oci(target), "--recipient", party.recipient)
    back = Layout(tmp_path / "back")
    done("decrypt", oci(target), oci(back, "back"), *party.ours)
    found = [gzip.decompress(each) if compressed else each for each in blobs(back)]
    assert found == list(images.rootfs_layers())
    assert {each["mediaType"] for each in back.layers} == {images.GZIP if compressed else images.TAR}
    run("umoci", "unpack", "--image", f"{back.directory}:back", tmp_path / "bundle")
    absent = image("layerinfo", f"docker-archive:{archive}:absent")
    assert (absent.status, "'localhost/image:one'" in absent.errors) == (7, True)


def test_a_layer_that_is_not_what_the_configuration_says(
    gzipped: Layout, parties: dict[str, Party], target: Layout, tmp_path: Path
) -> None:
    archive = tmp_path / "saved.tar"
    run("skopeo", "--insecure-policy", "copy", oci(gzipped, images.NAME), f"docker-archive:{archive}:a/b:c")
    data = archive.read_bytes()
    archive.write_bytes(data.replace(images.GREETING.encode(), images.GREETING.upper().encode()))
    ended = image("encrypt", f"docker-archive:{archive}", oci(target), "--recipient", parties["jwe"].recipient)
    assert ended.status == 5
    assert not (target.directory / "index.json").exists()


def _compress_layers(path: Path) -> None:
    """Compress the layers of a Docker archive, which containerd's image store saves like that."""
    packed = io.BytesIO()
    with tarfile.open(path) as old, tarfile.open(fileobj=packed, mode="w") as new:
        (image,) = json.loads(_content(old, "manifest.json"))
        for entry in old:
            if entry.isreg():
                data = _content(old, entry.name)
                data = gzip.compress(data) if entry.name in image["Layers"] else data
                entry.size = len(data)
                new.addfile(entry, io.BytesIO(data))
            else:
                new.addfile(entry)
    path.write_bytes(packed.getvalue())


def _content(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None
    return file.read()
