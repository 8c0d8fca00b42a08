"""Places of other programs: docker's daemon and archives, skopeo's directories, podman's storage."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.image.command import SECONDS, blobs, done, image, oci, run
from tests.support.image.images import NAME
from tests.support.node import dockerd
from tests.support.program import processes
from tests.support.registry.registries import skopeo

if TYPE_CHECKING:
    from tests.support.image.images import Layout
    from tests.support.keys.parties import Party
    from tests.support.node.dockerd import Docker


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    with tempfile.TemporaryDirectory(prefix="dockerd-") as directory, dockerd.running(Path(directory)) as daemon:
        yield daemon


@pytest.fixture
def party(parties: dict[str, Party]) -> Party:
    return parties["jwe"]


def test_docker_loads_what_decrypt_writes_and_its_images_are_encrypted(
    docker: Docker, gzipped: Layout, target: Layout, party: Party
) -> None:
    done("encrypt", oci(gzipped), oci(target, "enc"), "--recipient", party.recipient)
    command = [processes.PROGRAM, "image", "decrypt", oci(target, "enc"), "docker-archive:-:app:1", *party.ours]
    archive = subprocess.run(command, capture_output=True, timeout=SECONDS, check=True).stdout
    assert "Loaded image: app:1" in docker.load(archive)
    diff_ids = gzipped.read_json(gzipped.manifest["config"])["rootfs"]["diff_ids"]
    assert docker.inspect("app:1")["RootFS"]["Layers"] == diff_ids

    place = "docker-daemon:app:1"
    done("encrypt", place, oci(target, "from-docker"), "--recipient", party.recipient, **docker.environment)
    done("check", "--require-encrypted", "all", "--verify", oci(target, "from-docker"), *party.ours)
    absent = image("layerinfo", "docker-daemon:absent:1", **docker.environment)
    assert (absent.status, "absent:1" in absent.errors) == (7, True), absent.errors
    written = image("decrypt", oci(target, "enc"), place, *party.ours, **docker.environment)
    assert (written.status, "docker load" in written.errors) == (2, True)


def test_no_docker(tmp_path: Path) -> None:
    nobody = image("layerinfo", "docker-daemon:app", DOCKER_HOST=f"unix://{tmp_path}/absent")
    assert (nobody.status, "No such file" in nobody.errors) == (7, True)
    remote = image("layerinfo", "docker-daemon:app", DOCKER_HOST="tcp://localhost:1")
    assert (remote.status, "only unix://" in remote.errors) == (2, True)


def test_directories_of_skopeo(gzipped: Layout, target: Layout, party: Party, tmp_path: Path) -> None:
    skopeo("copy", f"oci:{gzipped.directory}:{NAME}", f"dir:{tmp_path}/plain")
    done("encrypt", f"dir:{tmp_path}/plain", f"dir:{tmp_path}/encrypted", "--recipient", party.recipient)
    done("check", "--require-encrypted", "all", "--verify", f"dir:{tmp_path}/encrypted", *party.ours)
    skopeo("copy", *party.skopeo, f"dir:{tmp_path}/encrypted", f"oci:{target.directory}:{NAME}")
    assert blobs(target) == blobs(gzipped)


def test_a_directory_is_encrypted_in_place(gzipped: Layout, party: Party, tmp_path: Path) -> None:
    place = f"dir:{tmp_path}/image"
    skopeo("copy", f"oci:{gzipped.directory}:{NAME}", place)
    victim = tmp_path / "victim"
    victim.write_text("victim")
    plain = [tmp_path / "image" / each["digest"].partition(":")[2] for each in gzipped.layers]
    plain[0].with_name("f" * 64).symlink_to(victim)
    done("encrypt", "--in-place", place, "--recipient", party.recipient)
    assert not any(path.exists() for path in plain)
    assert victim.read_text() == "victim"
    done("check", "--require-encrypted", "all", "--verify", place, *party.ours)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    other = image("encrypt", oci(gzipped), f"dir:{tmp_path}/other", "--recipient", party.recipient)
    assert (other.status, "neither empty nor" in other.errors) == (7, True)


@pytest.mark.parametrize("program", ["podman", "skopeo"])
def test_storage_of_podman(program: str, gzipped: Layout, target: Layout, party: Party, tmp_path: Path) -> None:
    configuration = tmp_path / "storage.conf"
    configuration.write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path}/storage"\nrunroot = "{tmp_path}/run"\n'
    )
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / program).symlink_to(f"/usr/bin/{program}")
    policy = tmp_path / ".config" / "containers" / "policy.json"
    policy.parent.mkdir(parents=True)
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    environment = {"CONTAINERS_STORAGE_CONF": str(configuration), "HOME": str(tmp_path)}
    archive = f"oci-archive:{tmp_path}/image.tar"
    skopeo("copy", f"oci:{gzipped.directory}:{NAME}", archive)
    copy = ["env", *(f"{name}={value}" for name, value in environment.items()), "skopeo", "copy"]
    run(*copy, archive, "containers-storage:localhost/app:1")
    place = "containers-storage:localhost/app:1"
    done("encrypt", place, oci(target), "--recipient", party.recipient, PATH=str(programs), **environment)
    done("check", "--require-encrypted", "all", "--verify", oci(target), *party.ours)
    without = image("layerinfo", place, PATH=str(tmp_path), **environment)
    assert (without.status, f"run: skopeo copy {place}" in without.errors) == (7, True)
    written = image("decrypt", oci(target), place, *party.ours)
    assert (written.status, "can only be read" in written.errors) == (2, True)
