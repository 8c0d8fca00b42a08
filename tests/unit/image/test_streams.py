"""Archives from pipes and to pipes, plain and gzip."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from tests.support.image.command import SECONDS, blobs, done, image, oci
from tests.support.program import processes

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.image.images import Layout


def piped(data: bytes, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    return processes.run_program(["image", *map(str, arguments)], SECONDS, data)


@pytest.mark.parametrize("compressed", [False, True])
def test_oci_archives_through_pipes(
    compressed: bool, small: Layout, target: Layout, recipient: list[str], key: list[str]
) -> None:
    archive = gzip.compress(small.archive()) if compressed else small.archive()
    encrypted = piped(archive, "encrypt", "oci-archive:-", "oci-archive:-", *recipient)
    assert encrypted.returncode == 0, encrypted.stderr
    assert b"oci-archive:- sha256:" in encrypted.stderr
    with tarfile.open(fileobj=io.BytesIO(encrypted.stdout)) as written:
        assert {"index.json", "oci-layout"} <= set(written.getnames())
    ended = piped(encrypted.stdout, "decrypt", "oci-archive:-", oci(target), *key)
    assert ended.returncode == 0, ended.stderr
    assert blobs(target) == blobs(small)


def docker_archive(layout: Layout, name: str) -> bytes:
    """Write what `docker save` writes, in the old form: layers in tar, named by a directory."""
    files = {"config.json": layout.read(layout.manifest["config"])}
    layers = []
    for number, descriptor in enumerate(layout.layers):
        layers.append(f"{number}/layer.tar")
        files[layers[-1]] = gzip.decompress(layout.read(descriptor))
    entry = {"Config": "config.json", "RepoTags": [name], "Layers": layers}
    files["manifest.json"] = json.dumps([entry]).encode()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path, data in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def test_docker_archives_from_pipes_and_gzip(
    small: Layout, target: Layout, recipient: list[str], key: list[str], tmp_path: Path
) -> None:
    archive = docker_archive(small, "app:1")
    (tmp_path / "app.tar.gz").write_bytes(gzip.compress(archive))
    done("encrypt", f"docker-archive:{tmp_path}/app.tar.gz:app:1", oci(target, "file"), *recipient)
    ended = piped(archive, "encrypt", "docker-archive:-", oci(target, "pipe"), *recipient)
    assert ended.returncode == 0, ended.stderr
    for name in ("file", "pipe"):
        done("check", "--require-encrypted", "all", "--verify", oci(target, name), *key)


def test_decrypt_writes_docker_archives(small: Layout, target: Layout, recipient: list[str], key: list[str]) -> None:
    done("encrypt", oci(small), oci(target), *recipient)
    ended = piped(b"", "decrypt", oci(target), "docker-archive:-:app:2", *key)
    assert ended.returncode == 0, ended.stderr
    with tarfile.open(fileobj=io.BytesIO(ended.stdout)) as archive:
        file = archive.extractfile("manifest.json")
        assert file is not None
        (entry,) = json.loads(file.read())
        assert entry["RepoTags"] == ["app:2"]
        first = archive.extractfile(entry["Layers"][0])
        assert first is not None
        assert first.read() == small.read(small.layers[0])
    refused = image("encrypt", oci(small), "docker-archive:x.tar", *recipient)
    assert (refused.status, "cannot hold encrypted layers" in refused.errors) == (2, True)
    partly = piped(b"", "decrypt", oci(target), "docker-archive:-", *key, "--layer", "0")
    assert (partly.returncode, partly.stdout) == (2, b"")


def test_a_named_pipe_is_written_to_and_not_replaced(
    small: Layout, recipient: list[str], target: Layout, key: list[str], tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        done("encrypt", oci(small), f"oci-archive:{pipe}", *recipient)
        archive, _ = reader.communicate(timeout=SECONDS)
    assert pipe.is_fifo()
    assert piped(archive, "decrypt", "oci-archive:-", oci(target), *key).returncode == 0


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_gzip_that_is_cut_short_is_refused(cut: int, small: Layout, target: Layout, recipient: list[str]) -> None:
    archive = gzip.compress(small.archive())
    ended = piped(archive[:-cut], "encrypt", "oci-archive:-", oci(target), *recipient)
    assert ended.returncode == 7, ended.stderr
