"""The packages, built once, and a layer for the node whose key is `KEY`."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from tests.support import layers
from tests.support.packages import Built, build
from tests.support.processes import payload_bytes


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Built:
    """Build them in the first process of this run of the tests that needs them; the others wait for it."""
    own = tmp_path_factory.getbasetemp()
    directory = (own if worker_id == "master" else own.parent) / "packages"
    with directory.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.is_dir():
            build(directory.with_suffix(".partial")).directory.rename(directory)
    return Built(directory)


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
