"""Keys that openssl makes and images that skopeo encrypts, for all system tests."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import images
from tests.support.images import Layout

_SECONDS = 60

_GENERATE = {
    "rsa2048": ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    "rsa4096": ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:4096"],
    "p256": ["ecparam", "-genkey", "-noout", "-name", "prime256v1"],  # a SEC1 file
    "p384": ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp384r1"],
    "p521": ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp521r1"],
}


class KeyPair(NamedTuple):
    """The files of a key pair, as openssl wrote them."""

    private: Path
    public: Path


Encrypt = Callable[[Layout, list[str]], Layout]


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, KeyPair]:
    directory = tmp_path_factory.mktemp("keys")
    pairs = {}
    for name, arguments in _GENERATE.items():
        pair = pairs[name] = KeyPair(directory / f"{name}.pem", directory / f"{name}.pub.pem")
        _run("openssl", *arguments, "-out", pair.private)
        _run("openssl", "pkey", "-in", pair.private, "-pubout", "-out", pair.public)
    return pairs


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Layout]:
    """The plain image by the media type of its layers."""
    directory = tmp_path_factory.mktemp("plain")
    media_types = (images.TAR, images.GZIP, images.DOCKER_GZIP)
    return {media_type: images.write_image(directory / str(n), media_type) for n, media_type in enumerate(media_types)}


@pytest.fixture(scope="session")
def encrypt(keys: dict[str, KeyPair], tmp_path_factory: pytest.TempPathFactory) -> Encrypt:
    """Have skopeo encrypt an image to the named keys."""

    def encrypt(layout: Layout, recipients: list[str]) -> Layout:
        target = tmp_path_factory.mktemp("encrypted")
        options = [option for name in recipients for option in ("--encryption-key", f"jwe:{keys[name].public}")]
        _run(
            "skopeo",
            "--insecure-policy",
            "copy",
            "--dest-oci-accept-uncompressed-layers",  # or it compresses them first
            *options,
            f"oci:{layout.directory}:{images.NAME}",
            f"oci:{target}:{images.NAME}",
        )
        return Layout(target)

    return encrypt


def _run(*command: str | Path) -> None:
    result = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    assert result.returncode == 0, result.stderr
