"""A layer that cannot be decrypted leaves a message in the journal, which says why where the client does not."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from decoder import limits
from tests.support.image import images
from tests.support.image.command import done, oci
from tests.support.image.images import Layout
from tests.support.node import journald
from tests.support.node.containerd import Containerd
from tests.support.node.roots import SUITES, Suite
from tests.support.program.processes import PROGRAM
from tests.support.provider.serving import write_key

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.keys.keypairs import Encrypt, KeyPair

KEY = "p256"
LAYER_BYTES = 1024 * 1024


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory, encrypt: Encrypt) -> Layout:
    """An encrypted image whose last layer is larger than 1 MiB."""
    busybox, _, _ = images.rootfs_layers()
    last = images.tar_of({"greet": images.script(images.GREETING), "more": images.noise()[:LAYER_BYTES]})
    layers = [images.packed(tar, images.GZIP) for tar in (busybox, last)]
    return encrypt(images.write_layers(tmp_path_factory.mktemp("plain") / "image", layers), [KEY])


@pytest.mark.parametrize("suite", SUITES, ids=[suite.name for suite in SUITES])
def test_a_damaged_layer(suite: Suite, image: Layout, keys: dict[str, KeyPair], tmp_path: Path) -> None:
    """The client sees `unexpected EOF`; the journal has the reason, the layer and the image."""
    damaged = Layout(shutil.copytree(image.directory, tmp_path / "damaged"))
    old = damaged.layers[-1]
    blob = bytearray(damaged.read(old))
    blob[-LAYER_BYTES // 8] ^= 1
    descriptor = {**old, **damaged.add(bytes(blob), old["mediaType"])}
    (damaged.directory / "blobs/sha256" / old["digest"].partition(":")[2]).unlink()
    damaged.write_manifest(damaged.read_json(damaged.manifest["config"]), [*damaged.layers[:-1], descriptor])
    with Containerd(tmp_path, keys[KEY].private, programs=suite.programs) as containerd:
        journald.start(containerd)
        result = containerd.import_image(damaged)
        assert result.returncode != 0
        assert "HMAC" not in result.stderr, "the client says it already: this test shows nothing"
        (message,) = journald.messages(containerd)
        index = json.loads((damaged.directory / "index.json").read_bytes())
    assert message["CTD_STATUS"] == "5"
    assert message["CTD_CLASS"] == "layer"
    assert message["CTD_LAYER"] == descriptor["digest"]
    if "CTD_IMAGE" in message:  # containerd 2 keeps the index that it imports, and with it the name
        assert message["CTD_IMAGE"] == f"'{images.NAME}'"
    else:
        assert suite.version < (2, 0)
        assert message["CTD_IMAGE_DIGEST"] == index["manifests"][0]["digest"]
    image_text = message.get("CTD_IMAGE", message["CTD_IMAGE_DIGEST"])
    assert "its HMAC differs" in message["CTD_REASON"]
    assert message["PRIORITY"] == "3"
    text = f"cannot decrypt layer {descriptor['digest']} of image {image_text} (status 5): {message['CTD_REASON']}"
    assert message["MESSAGE"] == text


def test_no_key(image: Layout, tmp_path: Path) -> None:
    with Containerd(tmp_path, programs=SUITES[-1].programs) as containerd:
        journald.start(containerd)
        assert containerd.import_image(image).returncode != 0
        message = journald.messages(containerd)[0]
    assert (message["CTD_STATUS"], message["CTD_CLASS"]) == ("4", "key")
    assert "no key opens this layer" in message["MESSAGE"]
    assert "\n" not in message["MESSAGE"]


def test_a_layer_that_is_decrypted_leaves_no_message(image: Layout, keys: dict[str, KeyPair], tmp_path: Path) -> None:
    with Containerd(tmp_path, keys[KEY].private, programs=SUITES[-1].programs) as containerd:
        journald.start(containerd)
        assert containerd.import_image(image).returncode == 0
        # The journal is read once a later message is in it: by then an earlier one would be, too.
        containerd.execute("logger", "--socket", "/run/systemd/journal/dev-log", "--tag", "ctd-decoder", "the end")
        (message,) = journald.messages(containerd)
    assert message["MESSAGE"] == "the end"


def test_a_key_service_that_takes_its_time_is_named(tmp_path: Path) -> None:
    """After five seconds, while the pull still waits; then the layer is decrypted."""
    provide = f"exec {PROGRAM} keyprovider run --provider local --key {write_key(tmp_path / 'key')}"
    layout, node = Layout(tmp_path / "encrypted"), tmp_path / "node"
    tar = images.tar_of({"file": b"content"})
    plain = images.write_layers(tmp_path / "plain", [images.packed(tar, images.GZIP)])
    configure(tmp_path, provide)
    options = ("--recipient", "provider:slow", "--keyprovider-config", str(tmp_path / "providers.conf"))
    done("encrypt", *options, oci(plain), oci(layout, images.NAME))
    configure(tmp_path, f"sleep {limits.WAITING_SECONDS + 2}; {provide}")
    node.mkdir()
    with Containerd(node, programs=SUITES[-1].programs) as containerd:
        journald.start(containerd)
        file = "/etc/containerd/ocicrypt/ocicrypt_keyprovider.conf"
        assert containerd.execute("install", "-m", "600", str(tmp_path / "providers.conf"), file).returncode == 0
        imported = containerd.import_image(layout)
        assert imported.returncode == 0, imported.stderr
        found = [each["MESSAGE"] for each in journald.messages(containerd)]
    text = f"still waiting for the keyprovider 'slow' (the command {str(tmp_path / 'provider')!r}) after 5 seconds"
    assert [each for each in found if each.startswith("still")] == [text]


def configure(directory: Path, script: str) -> None:
    """Write a keyprovider that is a script, and a configuration that names it."""
    (directory / "provider").write_text(f"#!/bin/sh\n{script}\n")
    (directory / "provider").chmod(0o755)
    entry = {"cmd": {"path": str(directory / "provider"), "args": []}}
    (directory / "providers.conf").write_text(json.dumps({"key-providers": {"slow": entry}}))
