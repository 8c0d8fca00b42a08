"""skopeo 1.18, imgcrypt's ctr and its decoder, with our keyprovider as their command and as their gRPC server."""

from __future__ import annotations

import json
import subprocess
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.image import images
from tests.support.image.images import Layout
from tests.support.node.containerd import CTR_IMGCRYPT, IMAGE, SOCKET, Containerd
from tests.support.program.processes import REFERENCE, payload_bytes, run_decoder
from tests.support.provider.serving import Server, configure, write_command, write_key
from tests.support.registry.skopeo import run_skopeo

ANNOTATION = "org.opencontainers.image.enc.keys.provider.{}"
FORMS = ("command", "tcp", "unix")
KEYS = {"blue": b"b" * 32, "green": b"g" * 32}


class Node(NamedTuple):
    """A place where our keyprovider runs in every form, each under its own name.

    Attributes:
        environment: names the configuration for clients.
        server: the one that listens on TCP.
    """

    environment: dict[str, str]
    server: Server


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    directory = tmp_path_factory.mktemp("node")
    keys = directory / "keys"
    keys.mkdir()
    for name, key in KEYS.items():
        write_key(keys / name, key)
    options = ("--provider", "local", "--keys", keys)
    command = write_command(directory / "command", *options)
    (directory / "unix").mkdir()
    socket = f"unix://{directory}/kp.sock"
    with (
        Server(directory, *options, "--listen", "127.0.0.1:0") as tcp,
        Server(directory / "unix", *options, "--listen", socket),
    ):
        providers = {"command": {"cmd": {"path": str(command)}}, "tcp": {"grpc": tcp.target}, "unix": {"grpc": socket}}
        yield Node(configure(directory / "ocicrypt.conf", providers), tcp)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return images.write_image(tmp_path_factory.mktemp("plain") / "image", images.GZIP)


def skopeo(node: Node, source: Layout, target: Path, *options: str) -> subprocess.CompletedProcess[str]:
    copied = (f"oci:{source.directory}:{images.NAME}", f"oci:{target}:{images.NAME}")
    return run_skopeo("--insecure-policy", "copy", *options, *copied, environment=node.environment)


def encrypted(node: Node, image: Layout, target: Path, form: str, key: str) -> Layout:
    result = skopeo(node, image, target, "--encryption-key", f"provider:{form}:{key}")
    assert result.returncode == 0, result.stderr
    return Layout(target)


def blobs(layout: Layout) -> list[bytes]:
    return [layout.read(descriptor) for descriptor in layout.layers]


def test_it_is_the_skopeo_that_is_meant() -> None:
    assert run_skopeo("--version").stdout.startswith("skopeo version 1.18.")


@pytest.mark.parametrize("form", FORMS)
def test_skopeo_encrypts_and_decrypts(node: Node, image: Layout, tmp_path: Path, form: str) -> None:
    layout = encrypted(node, image, tmp_path / "encrypted", form, "green")
    assert {descriptor["mediaType"] for descriptor in layout.layers} == {f"{images.GZIP}+encrypted"}
    for descriptor in layout.layers:
        wrapped = json.loads(b64decode(descriptor["annotations"][ANNOTATION.format(form)]))
        assert (wrapped["key_url"], wrapped["wrap_type"]) == ("local://green", "AES")
    for number, key in enumerate(("", ":green", ":local://green")):
        target = tmp_path / f"decrypted{number}"
        result = skopeo(node, layout, target, "--decryption-key", f"provider:{form}{key}")
        assert result.returncode == 0, result.stderr
        assert blobs(Layout(target)) == blobs(image)


@pytest.mark.parametrize("form", FORMS)
def test_skopeo_is_told_why_not(node: Node, image: Layout, tmp_path: Path, form: str) -> None:
    refused = skopeo(node, image, tmp_path / "refused", "--encryption-key", f"provider:{form}:../blue")
    assert refused.returncode != 0
    assert "is not the name of a local key" in refused.stderr
    layout = encrypted(node, image, tmp_path / "encrypted", form, "green")
    result = skopeo(node, layout, tmp_path / "decrypted", "--decryption-key", f"provider:{form}:blue")
    assert result.returncode != 0


def test_skopeo_for_several_recipients_at_once(node: Node, image: Layout, tmp_path: Path) -> None:
    """It sends the parameters of every provider to each; here both names stand for one key."""
    target = tmp_path / "encrypted"
    for_each = [argument for form in ("command", "tcp") for argument in ("--encryption-key", f"provider:{form}:blue")]
    result = skopeo(node, image, target, *for_each)
    assert result.returncode != 0
    assert "--provider-name" in result.stderr


@pytest.mark.parametrize("form", FORMS)
def test_the_reference_decoder_decrypts(node: Node, image: Layout, tmp_path: Path, form: str) -> None:
    layout = encrypted(node, image, tmp_path / "encrypted", form, "blue")
    for descriptor, plain in zip(layout.layers, blobs(image), strict=True):
        for parameters in (None, {form: [b"Enabled"]}, {form: [b"blue"]}):
            result = run_decoder(
                payload_bytes(descriptor, parameters),
                layout.read(descriptor),
                program=REFERENCE,
                environment=node.environment,
            )
            assert (result.status, result.errors, result.plaintext) == (0, "", plain)


@pytest.mark.parametrize("form", FORMS)
def test_the_reference_decoder_is_told_why_not(node: Node, image: Layout, tmp_path: Path, form: str) -> None:
    descriptor = encrypted(node, image, tmp_path / "encrypted", form, "blue").layers[-1]
    payload = payload_bytes(descriptor, {form: [b"green"]})
    layer = Layout(tmp_path / "encrypted").read(descriptor)
    result = run_decoder(payload, layer, program=REFERENCE, environment=node.environment)
    assert (result.status, result.plaintext) == (1, b"")


def test_a_server_never_repeats_the_private_keys_that_it_is_sent(node: Node, image: Layout, tmp_path: Path) -> None:
    """The reference sends all of a node's keys with each request."""
    descriptor = encrypted(node, image, tmp_path / "encrypted", "tcp", "blue").layers[-1]
    keys = tmp_path / "keys"
    keys.mkdir()
    private = keys / "node.pem"
    generate = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(private)]
    subprocess.run(generate, check=True, capture_output=True)
    before = len(node.server.audit)
    result = run_decoder(
        payload_bytes(descriptor, None),
        Layout(tmp_path / "encrypted").read(descriptor),
        "--decryption-keys-path",
        str(keys),
        program=REFERENCE,
        environment=node.environment,
    )
    assert (result.status, len(node.server.audit)) == (0, before + 1)
    assert not any(line in node.server.log for line in private.read_text().splitlines())


@pytest.mark.parametrize("form", FORMS)
def test_ctr_imgcrypt_encrypts_and_decrypts(node: Node, image: Layout, tmp_path: Path, form: str) -> None:
    with Containerd(tmp_path) as containerd:
        imported = containerd.import_image(image, "--no-unpack")
        assert imported.returncode == 0, imported.stderr
        environment = [f"{name}={value}" for name, value in node.environment.items()]
        ctr = ["env", *environment, str(CTR_IMGCRYPT), "--address", SOCKET, "images"]
        result = containerd.execute(*ctr, "encrypt", "--recipient", f"provider:{form}:blue", IMAGE, "encrypted:1")
        assert result.returncode == 0, result.stderr
        assert containerd.execute(*ctr, "layerinfo", "encrypted:1").stdout.count(f"provider.{form}") == len(
            image.layers
        )
        plain = {descriptor["digest"] for descriptor in image.layers}
        assert containerd.ctr("images", "remove", "--sync", IMAGE).returncode == 0
        assert containerd.blobs.isdisjoint(plain)
        result = containerd.execute(*ctr, "decrypt", "--key", f"provider:{form}", "encrypted:1", "decrypted:1")
        assert result.returncode == 0, result.stderr
        assert containerd.blobs >= plain
