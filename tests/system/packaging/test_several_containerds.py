"""The installed package on a machine with several containerds, those of k3s and RKE2 among them."""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.image import images
from tests.support.image.images import Layout
from tests.support.keywrap.layers import pem, public_pem, rsa_key
from tests.support.node import rancher
from tests.support.node.containerd import Containerd
from tests.support.node.roots import SUITES, Suite
from tests.support.program.agent import wait_until
from tests.support.program.processes import PROGRAM

if TYPE_CHECKING:
    from tests.support.packaging.packages import Built

LAYERS = 8
COLD = 3  # layers that begin before the agent is there, with each containerd
BOOKWORM, TRIXIE, FORKY = SUITES


@pytest.fixture(scope="module")
def program(built: Built, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Unpack the package, and return its program."""
    directory = tmp_path_factory.mktemp("installed")
    subprocess.run(["dpkg-deb", "--extract", built.find("ctd-decoder_*.deb"), directory], check=True)
    return f"{directory}/usr/bin/ctd-decoder"


def archive(directory: Path, name: str) -> str:
    """Write an image of small encrypted layers that no other image has; return the path of its archive."""
    directory = directory / name
    directory.mkdir()
    tars = [images.tar_of({f"{name}/{number}": os.urandom(50)}) for number in range(LAYERS)]
    plain = images.write_layers(directory / "plain", [images.packed(tar, images.GZIP) for tar in tars])
    (directory / "recipient.pem").write_bytes(public_pem(rsa_key()))
    target = directory / "encrypted"
    places = [f"oci:{plain.directory}:{images.NAME}", f"oci:{target}:{images.NAME}"]
    command = [PROGRAM, "image", "encrypt", *places, "--recipient", f"jwe:{directory}/recipient.pem"]
    subprocess.run(command, check=True, timeout=300, capture_output=True)
    (directory / "image.tar").write_bytes(Layout(target).archive())
    return str(directory / "image.tar")


def status(containerd: Containerd, program: str) -> dict[str, Any]:
    """Ask the one agent of the machine, once all of its layers have been counted."""
    found: list[dict[str, Any]] = []

    def is_quiet() -> bool:
        found[:] = json.loads(containerd.execute(program, "agent", "status", "--json").stdout)
        return len(found) == 1 and found[0]["decrypting"] == 0

    wait_until(is_quiet, lambda: str(found))
    return found[0]


def assert_unpacked(result: subprocess.CompletedProcess[str]) -> None:
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("first", "distribution", "second", "version"),
    [(TRIXIE, "k3s", FORKY, 3), (FORKY, "rke2", TRIXIE, 2), (BOOKWORM, "k3s", TRIXIE, 2)],
    ids=["1.7 and k3s with 2.1", "2.1 and RKE2 with 1.7", "1.6 and k3s with 1.7"],
)
def test_each_finds_its_own_layers(
    first: Suite, distribution: str, second: Suite, version: int, program: str, tmp_path: Path
) -> None:
    """Two containerds unpack at once: no payload comes, so each layer is found in the right content store.

    Both have the same namespaces and confinement, so one agent serves both.
    """
    (tmp_path / "containerd").mkdir()
    (tmp_path / "key.pem").write_bytes(pem(rsa_key()))
    ours, theirs = archive(tmp_path, "ours"), archive(tmp_path, "theirs")
    wrapper = f'#!/bin/sh\nexec {program} "$@"\n'
    path = f"{Path(program).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"
    with (
        Containerd(
            tmp_path / "containerd", tmp_path / "key.pem", ctd_decoder=wrapper, programs=first.programs
        ) as containerd,
        rancher.running(distribution, containerd, tmp_path / "log", second.programs, path, version) as other,
        ThreadPoolExecutor(2) as pool,
    ):
        importing = [
            pool.submit(containerd.ctr, "images", "import", ours),
            pool.submit(other.ctr, "--namespace", "k8s.io", "images", "import", theirs),
        ]
        for each in importing:
            assert_unpacked(each.result())
        agent = status(containerd, program)
        assert 2 * (LAYERS - COLD) <= agent["served"] < 2 * LAYERS
        assert (agent["sent_away"], agent["fallen_back"]) == ({}, 0)

        for number, ctr in enumerate((containerd.ctr, other.ctr)):  # once more, in a namespace without the snapshots
            assert_unpacked(ctr("--namespace", "later", "images", "import", (ours, theirs)[number]))
        assert status(containerd, program)["served"] == agent["served"] + 2 * LAYERS
        for image, ctr in ((theirs, containerd.ctr), (ours, other.ctr)):  # and what only the other one had so far
            assert_unpacked(ctr("--namespace", "swapped", "images", "import", image))
