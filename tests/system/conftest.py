"""Key pairs from openssl and images that skopeo encrypts, for all system tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.image import images
from tests.support.keys import keypairs

if TYPE_CHECKING:
    from tests.support.image.images import Layout
    from tests.support.keys.keypairs import Encrypt, KeyPair


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, KeyPair]:
    return keypairs.make_pairs(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Layout]:
    """The plain image by the media type of its layers."""
    directory = tmp_path_factory.mktemp("plain")
    media_types = (images.TAR, images.GZIP, images.DOCKER_GZIP)
    return {media_type: images.write_image(directory / str(n), media_type) for n, media_type in enumerate(media_types)}


@pytest.fixture(scope="session")
def encrypt(keys: dict[str, KeyPair], tmp_path_factory: pytest.TempPathFactory) -> Encrypt:
    """Encrypt an image to the named keys with skopeo."""

    def encrypt(layout: Layout, recipients: list[str]) -> Layout:
        return keypairs.encrypt(
            layout, tmp_path_factory.mktemp("encrypted"), [keys[name].public for name in recipients]
        )

    return encrypt
