"""A registry, one with a password, and an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from decoder import limits
from tests.support.image import images
from tests.support.registry.registries import Registry, htpasswd, make_certificate, push, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.image.images import Layout


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return images.write_image(tmp_path_factory.mktemp("image") / "layout", images.GZIP)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, layout: Layout) -> Iterator[Registry]:
    """A registry over plain HTTP, with the image as `known:tag`."""
    with serving(tmp_path_factory.mktemp("registry")) as registry:
        push(layout, f"docker://{registry.host}/known:tag")
        yield registry


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"), "DNS:localhost", "DNS:registry.example")


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]) -> Iterator[Registry]:
    """A registry over TLS that wants USER's password."""
    directory = tmp_path_factory.mktemp("locked")
    with serving(directory, certificate, auth=htpasswd(directory)) as registry:
        yield registry


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty configuration, and short pauses."""
    directory = tmp_path / "docker"
    directory.mkdir()
    for variable in ("SSL_CERT_FILE", "REGISTRY_AUTH_FILE", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("DOCKER_CONFIG", "HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(directory))
    monkeypatch.setattr(limits, "REGISTRY_RETRY_SECONDS", 0.01)
    return directory
