"""Images go to a registry and come back; the registry is one in memory."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path

import pytest

from decoder.errors import ImageError
from decoder.image import manifest
from decoder.image.transport import Options, open_source
from tests.support.image import images
from tests.support.image.command import blobs, done, image, oci
from tests.support.image.images import Layout
from tests.support.keys import keypairs
from tests.support.registry.memory_registry import MemoryRegistry


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    layers = [images.packed(images.tar_of({name: name.encode() * 1000}), images.GZIP) for name in ("base", "top")]
    return images.write_layers(tmp_path_factory.mktemp("plain") / "image", layers)


@pytest.mark.parametrize("wants_token", [False, True])
@pytest.mark.parametrize("redirects", [False, True])
def test_there_and_back(wants_token: bool, redirects: bool, plain: Layout, tmp_path: Path) -> None:
    pair = keypairs.generate(tmp_path)["p256"]
    with MemoryRegistry(wants_token, redirects) as registry:
        place = f"docker://{registry.host}/team/image:tag"
        done("encrypt", oci(plain), place, "--recipient", f"jwe:{pair.public}")
        done("check", place, "--key", pair.private)
        back = Layout(tmp_path / "back")
        done("decrypt", place, oci(back, images.NAME), "--key", pair.private)
    assert blobs(back) == blobs(plain)
    pushed = json.loads(registry.manifests["team/image:tag"][0])
    assert all(layer["mediaType"].endswith("+encrypted") for layer in pushed["layers"])
    assert all(blob not in registry.blobs.values() for blob in blobs(plain))


def test_a_refused_login_names_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", f"{tmp_path}/run")
    files = [tmp_path / name for name in ("run/containers/auth.json", ".config/containers/auth.json")]
    docker = tmp_path / ".docker/config.json"
    with MemoryRegistry(wants_login=True) as registry:

        def failure(*options: str) -> str:
            ended = image("layerinfo", f"docker://{registry.host}/team/image:tag", *options)
            assert (ended.status, "HTTP 401" in ended.errors) == (7, True), ended.errors
            return ended.errors

        read = ", ".join(f"'{path}'" for path in (*files, docker))
        commands = f"`docker login {registry.host}` or `skopeo login {registry.host}`"
        assert (
            f"it needs a login, and {read} (read in this order) have none for {registry.host}: use {commands}"
            in failure()
        )
        assert "it refuses the login of --creds" in failure("--creds", "user:wrong")
        docker.parent.mkdir()
        secret = b64encode(b"user:wrong").decode()
        docker.write_text(json.dumps({"auths": {registry.host: {"auth": secret}}}))
        errors = failure()
        assert f"it refuses the login from '{docker}': log in again with {commands}" in errors
        assert "wrong" not in errors
        assert secret not in errors


def test_what_is_absent_is_named(tmp_path: Path) -> None:
    with MemoryRegistry() as registry:
        place = f"docker://{registry.host}/team/image:tag"
        pair = keypairs.generate(tmp_path)["p256"]
        ended = image("decrypt", place, f"oci:{tmp_path}/x", "--key", pair.private)
        assert (ended.status, f"{registry.host}/team/image" in ended.errors) == (7, True), ended.errors
        with (
            pytest.raises(ImageError, match=r"team/image"),
            open_source(place, Options()) as source,
        ):
            manifest.load(source)
    with pytest.raises(ImageError, match="cannot be reached"), open_source(place, Options(tls_verify=False)) as source:
        source.root()
