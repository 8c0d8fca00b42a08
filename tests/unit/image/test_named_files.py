"""File systems without unnamed files (O_TMPFILE), such as NFS and FUSE: blobs have hidden names at first."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.image.command import SECONDS, done, files_below, oci
from tests.support.image.images import digest_of
from tests.support.program import processes
from tests.support.program.processes import ROOT

if TYPE_CHECKING:
    from tests.support.image.images import Layout
    from tests.support.keys.parties import Party

WITHOUT = ROOT / "tests/support/program/without_tmpfile.py"


def image_without(error: int, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, str(WITHOUT), str(error), processes.PROGRAM, "image", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    return ended.returncode, ended.stderr


@pytest.mark.parametrize("transport", ["oci", "oci-archive"])
@pytest.mark.parametrize("error", [errno.EOPNOTSUPP, errno.EISDIR])
def test_images_are_written(
    error: int, transport: str, gzipped: Layout, parties: dict[str, Party], tmp_path: Path
) -> None:
    directory = tmp_path / "out"
    directory.mkdir()
    place, party = f"{transport}:{directory}/image", parties["jwe"]
    for _ in range(2):  # the second replaces the first
        assert image_without(error, "encrypt", oci(gzipped), place, "--recipient", party.recipient)[0] == 0
    done("check", place, *party.ours)
    assert done("layerinfo", place, "--json", *party.ours).value["layers"][0]["opens"]
    found = files_below(directory)
    assert not [name for name in found if Path(name).name.startswith(".")]
    assert all(digest_of(data) == f"sha256:{Path(name).name}" for name, data in found.items() if "blobs/" in name)
    modes = {path.stat().st_mode & 0o777 for path in directory.rglob("*") if path.is_file()}
    umask = os.umask(0o022)
    os.umask(umask)
    assert modes == {0o644 & ~umask}


@pytest.mark.parametrize("transport", ["oci", "oci-archive"])
def test_nothing_is_left_of_a_failure(
    transport: str, gzipped: Layout, target: Layout, parties: dict[str, Party], tmp_path: Path
) -> None:
    party, directory = parties["jwe"], tmp_path / "out"
    directory.mkdir()
    done("encrypt", oci(gzipped), oci(target), "--recipient", party.recipient)
    damaged = target.directory / "blobs" / target.layers[1]["digest"].replace(":", "/")
    damaged.write_bytes(bytes(damaged.stat().st_size))
    status, errors = image_without(
        errno.EOPNOTSUPP, "decrypt", oci(target), f"{transport}:{directory}/image", *party.ours, "--layer", "1"
    )
    assert (status, "damaged" in errors or "HMAC differs" in errors) == (5, True)
    left = {name for name in files_below(directory) if "blobs/" not in name}
    assert left == ({"image/oci-layout"} if transport == "oci" else set())


def test_other_refusals_are_told(gzipped: Layout, parties: dict[str, Party], tmp_path: Path) -> None:
    arguments = ["encrypt", oci(gzipped), f"oci:{tmp_path}/image", "--recipient", parties["jwe"].recipient]
    status, errors = image_without(errno.EACCES, *arguments)
    assert (status, "Permission denied" in errors) == (7, True)
