"""Places and archives that hold no image, each with its reason."""

from __future__ import annotations

import bz2
import io
import json
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from decoder import limits
from tests.support.image.command import image, oci

if TYPE_CHECKING:
    from tests.support.image.images import Layout


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("dir:", "dir: is not of the form dir:DIR"),
        ("dir:/nonexistent", "No such file"),
        ("oci:", "is not of the form oci:DIR[:REF]"),
        ("oci-archive:/nonexistent", "No such file"),
        ("oci-archive:/dev/null", "is neither a regular file nor a pipe"),
        ("docker-archive:/nonexistent", "No such file"),
        ("docker-daemon:", "is not of the form docker-daemon:NAME[:TAG]"),
        ("docker-daemon:-x", "is not of the form docker-daemon:NAME[:TAG]"),
        ("containers-storage:", "is not of the form containers-storage:NAME"),
        ("containers-storage:--help", "is not of the form containers-storage:NAME"),
    ],
)
def test_places(place: str, reason: str) -> None:
    ended = image("layerinfo", place)
    assert (ended.status, ended.output) == (2 if "form" in reason else 7, ""), ended.errors
    assert reason in ended.errors
    assert ended.errors.count("\n") == 1


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        (b"{", "index.json': "),
        (b"[]", "index.json': "),
        (b"{}", "has no list of manifests"),
        (b'{"manifests":{}}', "has no list of manifests"),
        (b'{"manifests":[1]}', "index.json': a descriptor is absent or not a JSON object"),
        (b" " * (limits.LAYOUT_INDEX_BYTES + 1), f"is longer than {limits.LAYOUT_INDEX_BYTES} bytes"),
    ],
)
def test_index_of_a_layout(index: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (tmp_path / "index.json").write_bytes(index)
    ended = image("layerinfo", f"oci:{tmp_path}")
    assert ended.status == 7
    assert reason in ended.errors


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        (b"{", "manifest.json"),
        (b"[]", "manifest.json"),
        (b" " * (limits.MANIFEST_BYTES + 1), f"is longer than {limits.MANIFEST_BYTES} bytes"),
    ],
)
def test_manifest_of_a_directory(manifest: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "version").write_text("Directory Transport Version: 1.1\n")
    (tmp_path / "manifest.json").write_bytes(manifest)
    ended = image("layerinfo", f"dir:{tmp_path}")
    assert ended.status == 7
    assert reason in ended.errors


CONFIG = json.dumps({"rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]}}).encode()
ONE = {"Config": "config.json", "RepoTags": ["one:1"], "Layers": ["layer.tar"]}


@pytest.mark.parametrize(
    ("manifest", "config", "reason"),
    [
        (b"{", CONFIG, "manifest.json: "),
        (b"{}", CONFIG, "manifest.json: "),
        (b"[1]", CONFIG, "manifest.json: "),
        (b"[]", CONFIG, "holds 0 images; their names are none"),
        (json.dumps([ONE, ONE]).encode(), CONFIG, "holds 2 images; their names are 'one:1', 'one:1'"),
        (json.dumps([{**ONE, "Layers": [1]}]).encode(), CONFIG, "manifest.json or the configuration: "),
        (json.dumps([{**ONE, "Layers": []}]).encode(), CONFIG, "has 0 layers, and diff IDs for 1"),
        (json.dumps([{**ONE, "Config": "absent"}]).encode(), CONFIG, "has no file 'absent'"),
        (json.dumps([ONE]).encode(), b"[]", "manifest.json or the configuration: "),
        (b" " * (limits.LAYOUT_INDEX_BYTES + 1), CONFIG, f"is longer than {limits.LAYOUT_INDEX_BYTES} bytes"),
    ],
)
def test_docker_archive(manifest: bytes, config: bytes, reason: str, tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    write_tar(archive, {"manifest.json": manifest, "config.json": config, "layer.tar": b"layer"})
    ended = image("layerinfo", f"docker-archive:{archive}")
    assert ended.status == 7
    assert reason in ended.errors


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize(("compress", "name"), [(bz2.compress, "bzip2"), (lzma.compress, "xz")])
def test_compressed_archive(compress: Callable[[bytes], bytes], name: str, tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    archive.write_bytes(compress(b"an archive"))
    ended = image("layerinfo", f"oci-archive:{archive}")
    assert ended.status == 7
    assert f"is compressed ({name}): decompress it first" in ended.errors


def test_archive_with_too_many_entries(tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    header = tarfile.TarInfo("x").tobuf()
    archive.write_bytes(header * (limits.ARCHIVE_ENTRIES + 1) + bytes(1024))
    ended = image("layerinfo", f"oci-archive:{archive}")
    assert ended.status == 7
    assert f"has more than {limits.ARCHIVE_ENTRIES} entries" in ended.errors


@pytest.mark.parametrize(("make", "reason"), [(os.mkfifo, "is not a regular file"), (os.mkdir, "Is a directory")])
def test_blob_that_is_not_a_file(
    make: Callable[[Path], None], reason: str, small: Layout, target: Layout, recipient: list[str]
) -> None:
    path = small.directory / "blobs" / str(small.layers[0]["digest"]).replace(":", "/")
    path.unlink()
    make(path)
    ended = image("encrypt", oci(small), oci(target), *recipient)
    assert ended.status == 7
    assert reason in ended.errors
    assert not (target.directory / "index.json").exists()
