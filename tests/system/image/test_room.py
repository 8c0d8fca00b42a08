"""A small image that expands to more than the disk has: temporary files leave room for other programs."""

from __future__ import annotations

import gzip
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
import zstandard

from decoder import limits
from tests.support.image.images import TAR, Layout, digest_of, tar_of
from tests.support.keywrap.layers import public_pem, rsa_key
from tests.support.program.processes import PROGRAM

DISK_MIB = 64
# Run a command with a small disk as $TMPDIR, and print what is left there afterwards.
_ON_A_SMALL_DISK = """
mount -t tmpfs -o size="$0"m small "$1" || exit 99
TMPDIR=$1 "${@:2}"
status=$?
ls -A "$1"
exit $status
"""


def on_a_small_disk(directory: Path, mib: int, *command: str | Path) -> subprocess.CompletedProcess[str]:
    directory.mkdir()
    started = ["unshare", "--mount", "bash", "-c", _ON_A_SMALL_DISK, str(mib), directory, *command]
    return subprocess.run(started, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def bomb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of 1 MiB that expands to four times the disk."""
    path = tmp_path_factory.mktemp("bomb") / "bomb.tar.gz"
    header = tarfile.TarInfo("blobs/sha256/00")
    header.size = 4 * DISK_MIB * limits.MIB
    with gzip.open(path, "wb", 1) as file:
        file.write(header.tobuf())
        for _ in range(4 * DISK_MIB):
            file.write(bytes(limits.MIB))
    return path


@pytest.mark.parametrize(
    "command", ["{program} image layerinfo {place}{bomb}", "cat {bomb} | {program} image layerinfo {place}-"]
)
@pytest.mark.parametrize("place", ["oci-archive:", "docker-archive:"])
def test_an_archive_that_expands_without_end(command: str, place: str, bomb: Path, tmp_path: Path) -> None:
    script = command.format(program=PROGRAM, place=place, bomb=bomb)
    done = on_a_small_disk(tmp_path / "disk", DISK_MIB, "bash", "-c", script)
    assert done.returncode == 7, done.stderr
    assert "has no room for it: " in done.stderr
    assert "the last 3 MiB are left to other programs; set TMPDIR to a directory with more room" in done.stderr
    assert done.stdout == ""


def test_a_layer_that_is_larger_when_it_is_recompressed(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "image")
    tar = tar_of({"noise": os.urandom(4 * limits.MIB)})
    layer = layout.add(zstandard.compress(tar), f"{TAR}+zstd")
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest_of(tar)]}}
    layout.write_manifest(config, [layer])
    (tmp_path / "key.pem").write_bytes(public_pem(rsa_key()))
    options = ("--recompress", "gzip", "--recipient", f"jwe:{tmp_path}/key.pem")
    images = (f"oci:{layout.directory}", f"oci:{tmp_path}/target")
    done = on_a_small_disk(tmp_path / "disk", 2, PROGRAM, "image", "encrypt", *options, *images)
    assert done.returncode == 7, done.stderr
    assert f"{layer['digest']}: " in done.stderr
    assert "has no room for it: " in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "target/index.json").exists()
