"""Keys and images for the tests of `ctd-decoder image` that need nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.image import images, layouts
from tests.support.image.images import Layout
from tests.support.keys import keypairs
from tests.support.keys.parties import Party
from tests.support.keywrap import pkcs7_parts, pkcs7_writer
from tests.support.keywrap.layers import rsa_key

if TYPE_CHECKING:
    from tests.support.keys.keypairs import KeyPair


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, KeyPair]:
    return keypairs.generate(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="session")
def parties(keys: dict[str, KeyPair], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Party]:
    """One for each protocol whose keys the library `cryptography` makes."""
    certificate = tmp_path_factory.mktemp("parties") / "cert.pem"
    der = pkcs7_writer.certificate(rsa_key(4096), "image")
    certificate.write_bytes(pkcs7_parts.pem_of(der, "CERTIFICATE"))
    return {"jwe": Party.jwe(keys["rsa2048"]), "pkcs7": Party.pkcs7(keys["rsa4096"], certificate)}


@pytest.fixture(scope="session")
def gzipped(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """An image of three compressed layers; it does not run."""
    tars = [images.tar_of({"base": b"base"}), images.tar_of({"noise": images.noise()}), images.tar_of({"top": b"top"})]
    directory = tmp_path_factory.mktemp("plain") / "image"
    return images.write_layers(directory, [images.packed(tar, images.GZIP) for tar in tars])


@pytest.fixture
def target(tmp_path: Path) -> Layout:
    """Where an image may be written to."""
    return Layout(tmp_path / "target")


@pytest.fixture
def recipient(keys: dict[str, KeyPair]) -> list[str]:
    return ["--recipient", f"jwe:{keys['p256'].public}"]


@pytest.fixture
def key(keys: dict[str, KeyPair]) -> list[str]:
    return ["--key", str(keys["p256"].private)]


@pytest.fixture
def small(tmp_path: Path) -> Layout:
    """An image of two small layers, the only one of its layout, without a name."""
    layout = Layout(tmp_path / "small")
    return layouts.publish(layout, layouts.add_image(layout, "amd64", [layouts.tar("base"), layouts.tar("top")]))
