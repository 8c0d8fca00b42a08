"""The packages, each built once, and a layer for the node whose key is `KEY`."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from tests.support.keywrap import layers
from tests.support.packaging.packages import Built, build, make_image
from tests.support.program.processes import payload_bytes


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Built:
    """The packages for this machine."""
    return _once(tmp_path_factory, worker_id, "packages")


@pytest.fixture(scope="session")
def built_arm64(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Built:
    """The packages for arm64."""
    return _once(tmp_path_factory, worker_id, "packages-arm64", "arm64")


def _once(factory: pytest.TempPathFactory, worker_id: str, name: str, *architectures: str) -> Built:
    """Build in the first process of this run of the tests that needs it; the others wait for it."""
    own = factory.getbasetemp()
    directory = (own if worker_id == "master" else own.parent) / name
    with directory.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.is_dir():
            build(directory.with_suffix(".partial"), *architectures).directory.rename(directory)
    return Built(directory)


@pytest.fixture(scope="session")
def images_made(built: Built, built_arm64: Built, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The directory with the OCI archive for both architectures, and the trees for machines without glibc."""
    own = tmp_path_factory.getbasetemp()
    directory = (own if worker_id == "master" else own.parent) / "images"
    with directory.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.is_dir():
            both = directory.with_suffix(".packages")
            both.mkdir()
            for package in (*built.directory.glob("*.deb"), *built_arm64.directory.glob("*.deb")):
                (both / package.name).symlink_to(package)
            partial = directory.with_suffix(".partial")
            make_image(both, partial)
            partial.rename(directory)
    return directory


@pytest.fixture(scope="session")
def image_archive(images_made: Path) -> Path:
    """The OCI archive."""
    (archive,) = images_made.glob("*.oci.tar")
    return archive


@pytest.fixture(scope="session")
def layer_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the files of one layer: ciphertext, plaintext, payload, and the key that opens it."""
    directory = tmp_path_factory.mktemp("layer")
    layer = layers.encrypted(b"plain text of a layer\n" * 1000)
    (directory / "ciphertext").write_bytes(layer.ciphertext)
    (directory / "plaintext").write_bytes(layer.plaintext)
    (directory / "payload").write_bytes(payload_bytes(layer.descriptor, None))
    (directory / "key.pem").write_bytes(layers.pem(layers.rsa_key()))
    return directory
