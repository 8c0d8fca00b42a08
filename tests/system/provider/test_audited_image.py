"""The audit of `keyprovider serve` says which image a key was for, as the client claims: commands, and the decoder."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import pytest

from tests.support.image import images
from tests.support.image.command import done, oci
from tests.support.image.images import Layout
from tests.support.node.containerd import Containerd
from tests.support.node.roots import SUITES, Suite
from tests.support.provider.client_parts import NAME, configuration
from tests.support.provider.serving import Server, write_key
from tests.support.registry import registries

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PROVIDERS = "/etc/containerd/ocicrypt/ocicrypt_keyprovider.conf"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    key = write_key(tmp_path / "key")
    with Server(tmp_path, "--provider", "local", "--key", key, "--listen", "127.0.0.1:0") as running:
        yield running


def audited(server: Server) -> set[tuple[str, str]]:
    return {(line["operation"], line.get("image", "")) for line in server.audit}


def test_commands(server: Server, plain: dict[str, Layout], tmp_path: Path) -> None:
    """They name images of registries, and no local path."""
    config = ("--keyprovider-config", configuration(tmp_path, {NAME: {"grpc": server.target}}))
    with registries.serving(tmp_path / "registry") as registry:
        place = f"{registry.host}/app:1"
        encrypt = ("encrypt", "--recipient", f"provider:{NAME}", *config, "--tls-verify=false")
        done(*encrypt, oci(plain[images.GZIP]), f"docker://{place}")
        assert audited(server) == {("wrap-kek", place)}
        for verb in ("layerinfo", "check"):
            done(verb, "--key", f"provider:{NAME}", *config, "--tls-verify=false", f"docker://{place}")
        assert audited(server) == {("wrap-kek", place), ("unwrap-kek", place)}
    done(*encrypt, oci(plain[images.GZIP]), f"oci:{tmp_path}/secret-place:1")
    assert ("wrap-kek", "") in audited(server)
    assert "secret-place" not in server.log


@pytest.mark.parametrize("suite", [SUITES[0], SUITES[-1]], ids=lambda suite: suite.name)
def test_the_decoder(suite: Suite, server: Server, plain: dict[str, Layout], tmp_path: Path) -> None:
    """It says what the content store shows: the name of an imported image, or its digest."""
    entry = {NAME: {"grpc": server.target}}
    config = ("--keyprovider-config", configuration(tmp_path, entry))
    layout = Layout(tmp_path / "encrypted")
    done(
        "encrypt",
        "--recipient",
        f"provider:{NAME}",
        *config,
        oci(plain[images.GZIP]),
        f"oci:{layout.directory}:{images.NAME}",
    )
    (tmp_path / "node").mkdir()
    with Containerd(tmp_path / "node", programs=suite.programs) as containerd:
        text = shlex.quote(json.dumps({"key-providers": entry}))
        containerd.execute("sh", "-c", f"printf %s {text} >{PROVIDERS}; chmod 600 {PROVIDERS}")
        imported = containerd.import_image(layout)
        assert imported.returncode == 0, imported.stderr
        listed = containerd.ctr("images", "list").stdout
    (image,) = {image for operation, image in audited(server) if operation == "unwrap-kek"}
    assert image
    assert image in listed or image == images.NAME, (image, listed)
