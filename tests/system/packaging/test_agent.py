"""The installed package under containerd, with nothing switched on: all layers but the first are the agent's."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.image import images
from tests.support.image.images import Layout
from tests.support.keywrap.layers import pem, public_pem, rsa_key
from tests.support.node.containerd import Containerd
from tests.support.node.roots import SUITES, Suite
from tests.support.program.agent import wait_until
from tests.support.program.processes import PROGRAM
from tests.support.registry.dockerregistry import Registry, registry_with

if TYPE_CHECKING:
    from tests.support.packaging.packages import Built

LAYERS = 21
COLD = 3  # layers that begin before the agent is there; containerd unpacks up to three at a time

every_suite = pytest.mark.parametrize("suite", SUITES, ids=[suite.name for suite in SUITES])


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Unpack the package, and return its program."""
    directory = tmp_path_factory.mktemp("installed")
    subprocess.run(["dpkg-deb", "--extract", built.find("ctd-decoder_*.deb"), directory], check=True)
    return f"{directory}/usr/bin/ctd-decoder"


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "key.pem"
    path.write_bytes(pem(rsa_key()))
    return path


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """An image of 21 layers, most of them small."""
    directory = tmp_path_factory.mktemp("images")
    small = [images.tar_of({f"small/{number}": b"%d" % number}) for number in range(LAYERS - 3)]
    layers = [images.packed(tar, images.GZIP) for tar in (*small, *images.rootfs_layers())]
    plain = images.write_layers(directory / "plain", layers)
    recipient = directory / "recipient.pem"
    recipient.write_bytes(public_pem(rsa_key()))
    target = directory / "encrypted"
    source = f"oci:{plain.directory}:{images.NAME}"
    command = [PROGRAM, "image", "encrypt", source, f"oci:{target}:{images.NAME}", "--recipient", f"jwe:{recipient}"]
    subprocess.run(command, check=True, timeout=300, capture_output=True)
    return Layout(target)


@pytest.fixture(scope="module")
def registry(encrypted: Layout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with registry_with(encrypted, tmp_path_factory.mktemp("registry")) as running:
        yield running


def telling(program: str) -> str:
    """Write what containerd finds on PATH: it tells the library path that containerd gives to what it starts."""
    return f'#!/bin/sh\necho "$LD_LIBRARY_PATH" >>"$CTD_DECODER_LOG"\nexec {program} "$@"\n'


def status(containerd: Containerd, program: str) -> dict[str, Any]:
    """Ask the one agent in containerd's namespaces, once all of its layers have been counted."""
    found: list[dict[str, Any]] = []

    def is_quiet() -> bool:
        result = containerd.execute(program, "agent", "status", "--json")
        found[:] = json.loads(result.stdout)
        return len(found) == 1 and found[0]["decrypting"] == 0

    wait_until(is_quiet, lambda: str(found))
    return found[0]


def assert_served(agent: dict[str, Any]) -> None:
    assert LAYERS - COLD <= agent["served"] < LAYERS
    assert (agent["sent_away"], agent["fallen_back"]) == ({}, 0)


def assert_runs(containerd: Containerd, image: str) -> None:
    """None was wrong: containerd compares diff IDs, and the container reads a file of a layer."""
    result = containerd.run_stock(image)
    assert (result.returncode, result.stdout) == (0, images.expected_output()), result.stderr


@every_suite
def test_images_of_21_layers(
    suite: Suite, installed: str, encrypted: Layout, registry: Registry, key: Path, tmp_path: Path
) -> None:
    """One is pulled, another one is imported; no layer of the second is cold."""
    with Containerd(tmp_path, key, ctd_decoder=telling(installed), programs=suite.programs) as containerd:
        pulled = containerd.ctr("images", "pull", *suite.pull_modes[0].split(), "--plain-http", registry.reference)
        assert pulled.returncode == 0, pulled.stderr
        assert_served(status(containerd, installed))
        assert_runs(containerd, registry.reference)
        before = status(containerd, installed)["served"]
        imported = containerd.import_image(encrypted, namespace="other")
        assert imported.returncode == 0, imported.stderr
        assert status(containerd, installed)["served"] == before + LAYERS
        assert len(containerd.decoder_runs) == 2 * LAYERS
        assert all(path.endswith("/lib:") for path in containerd.decoder_runs)  # why no client was served once
        maps = containerd.execute("cat", f"/proc/{status(containerd, installed)['pid']}/maps").stdout
        assert "_rust" in maps
        assert "libctd-crypto" not in maps  # a second OpenSSL, which would take 3 MiB


def test_with_payloads(installed: str, encrypted: Layout, key: Path, tmp_path: Path) -> None:
    with Containerd(tmp_path, ctd_decoder=telling(installed)) as containerd:
        result = containerd.run(encrypted, "--key", str(key))
        assert (result.returncode, result.stdout) == (0, images.expected_output()), result.stderr
        assert_served(status(containerd, installed))


def test_without_the_key(installed: str, encrypted: Layout, tmp_path: Path) -> None:
    """The layer fails as it does without the agent, and containerd shows the reason."""
    with Containerd(tmp_path, ctd_decoder=telling(installed)) as containerd:
        for repository in ("first", "second"):
            result = containerd.import_image(encrypted, repository=repository)
            assert result.returncode == 1
            assert "ctd-decoder: error: no key opens this layer" in result.stderr
        assert status(containerd, installed)["served"] >= 1
