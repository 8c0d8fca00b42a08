"""Containers whose layers only a keyprovider can open, under containerd with its own default stream processors."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from decoder.keywrap.keyprovider import KeyProvider
from decoder.layer import annotations as layer
from decoder.layer import stream
from tests.support.image import images
from tests.support.image.images import Layout
from tests.support.keywrap.layers import MemoryFile, sink_of, source_of
from tests.support.node.containerd import CTR_IMGCRYPT, IMAGE, SOCKET, Containerd
from tests.support.provider.client_parts import NAME, CommandParts, configuration, serving, shell, turning_command

CONFIGURATION = "/etc/containerd/ocicrypt/ocicrypt_keyprovider.conf"  # fixed by containerd's default configuration
PLAIN = images.GZIP


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> CommandParts:
    return turning_command(tmp_path_factory.mktemp("provider"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return images.write_image(tmp_path_factory.mktemp("plain") / "image", PLAIN)


@pytest.fixture(scope="module")
def encrypted(plain: Layout, provider: CommandParts, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """The image with each layer under a key of its own, all of them wrapped by the command."""
    directory = tmp_path_factory.mktemp("encrypted")
    keyprovider = KeyProvider(NAME, configuration(directory, {NAME: provider.entry}))
    layout = Layout(directory / "image")
    layout.directory.mkdir()
    descriptors = []
    for descriptor in plain.layers:
        key, nonce = secrets.token_bytes(32), secrets.token_bytes(16)
        ciphertext = MemoryFile()
        hmac = stream.encrypt(source_of(plain.read(descriptor)), sink_of(ciphertext), key, nonce)
        options = layer.build_private_options(layer.PrivateOptions(key, nonce, descriptor["digest"]))
        annotations = layer.build_annotations(hmac, {f"provider.{NAME}": [keyprovider.wrap(options, [b"the key"])]})
        added = layout.add(ciphertext.getvalue(), f"{PLAIN}+encrypted")
        descriptors.append({**added, "annotations": annotations})
    layout.write_manifest(plain.read_json(plain.manifest["config"]), descriptors)
    return layout


def configure(containerd: Containerd, config_file: str) -> None:
    """Put a configuration where this containerd's stream processors look for it."""
    root = Path(str(containerd.socket).removesuffix(SOCKET))
    (root / CONFIGURATION.lstrip("/")).write_bytes(Path(config_file).read_bytes())


def test_runs_with_a_command(encrypted: Layout, provider: CommandParts, tmp_path: Path) -> None:
    provider.record.unlink(missing_ok=True)
    config_file = configuration(tmp_path, {NAME: provider.entry})
    with Containerd(tmp_path) as containerd:
        configure(containerd, config_file)
        result = containerd.run(encrypted, "--skip-decrypt-auth")
        assert (result.returncode, result.stdout, result.stderr) == (0, images.expected_output(), "")
        assert len(containerd.decoder_runs) == len(encrypted.layers)
    assert [request["op"] for request in provider.requests()] == ["keyunwrap"] * len(encrypted.layers)


def test_runs_with_a_server(encrypted: Layout, tmp_path: Path) -> None:
    with serving() as server, Containerd(tmp_path) as containerd:
        configure(containerd, configuration(tmp_path, {NAME: {"grpc": server.address}}))
        result = containerd.run(encrypted, "--skip-decrypt-auth")
        assert (result.returncode, result.stdout, result.stderr) == (0, images.expected_output(), "")
    assert len(server.messages) == len(encrypted.layers)


def test_runs_what_the_reference_client_encrypted(plain: Layout, provider: CommandParts, tmp_path: Path) -> None:
    provider.record.unlink(missing_ok=True)
    config_file = configuration(tmp_path, {NAME: provider.entry})
    with Containerd(tmp_path) as containerd:
        configure(containerd, config_file)
        assert containerd.import_image(plain, "--no-unpack").returncode == 0
        client = ["env", f"OCICRYPT_KEYPROVIDER_CONFIG={config_file}", str(CTR_IMGCRYPT), "--address", SOCKET]
        encrypting = containerd.execute(
            *client, "images", "encrypt", "--recipient", f"provider:{NAME}:k", IMAGE, "secret:1"
        )
        assert encrypting.returncode == 0, encrypting.stderr
        result = containerd.execute(*client, "run", "--rm", "--skip-decrypt-auth", "secret:1", "container")
        assert (result.returncode, result.stdout) == (0, images.expected_output()), result.stderr
        assert len(containerd.decoder_runs) == len(plain.layers)
    operations = [request["op"] for request in provider.requests()]
    assert operations == ["keywrap"] * len(plain.layers) + ["keyunwrap"] * len(plain.layers)


def test_does_not_run_when_the_provider_refuses(encrypted: Layout, tmp_path: Path) -> None:
    with Containerd(tmp_path) as containerd:
        configure(containerd, configuration(tmp_path, {NAME: shell("echo 'access denied' >&2; exit 1")}))
        result = containerd.run(encrypted, "--skip-decrypt-auth")
        assert containerd.decoder_runs
    assert (result.returncode, result.stdout) == (1, "")
    assert (
        f"the keyprovider '{NAME}' (the command '/bin/sh'): it ended with status 1, saying 'access denied'"
        in result.stderr
    )


def test_says_that_nobody_configured_it(encrypted: Layout, tmp_path: Path) -> None:
    with Containerd(tmp_path) as containerd:
        result = containerd.run(encrypted, "--skip-decrypt-auth")
    assert (result.returncode, result.stdout) == (1, "")
    assert f"no keyprovider '{NAME}' is configured: there is no file '{CONFIGURATION}'" in result.stderr
