"""Containers run from encrypted images under Debian's containerd, with its own default stream processors.

Each case has a fresh containerd, for an unpacked snapshot would be taken again without decrypting anything.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.image import images
from tests.support.node.containerd import KEYS_DIRECTORY, Containerd
from tests.support.program.processes import payload_bytes, run_decoder

if TYPE_CHECKING:
    from tests.support.image.images import Layout
    from tests.support.keys.keypairs import Encrypt, KeyPair

MEDIA_TYPES = [images.TAR, images.GZIP]
ALL_LAYERS = [f"--decryption-keys-path {KEYS_DIRECTORY}"] * 3


def test_the_processors_are_the_default_ones(tmp_path: Path) -> None:
    with Containerd(tmp_path) as containerd:
        default = tomllib.loads(containerd.execute("containerd", "config", "default").stdout)["stream_processors"]
        assert containerd.configuration["stream_processors"] == default
    assert {processor["path"] for processor in default.values()} == {"ctd-decoder"}
    assert {f"{media_type}+encrypted" for media_type in MEDIA_TYPES} == {
        accepted for processor in default.values() for accepted in processor["accepts"]
    }


@pytest.mark.parametrize("media_type", MEDIA_TYPES)
@pytest.mark.parametrize("name", ["rsa2048", "p256"])
def test_runs_with_the_key_in_the_directory(
    media_type: str, name: str, plain: dict[str, Layout], encrypt: Encrypt, keys: dict[str, KeyPair], tmp_path: Path
) -> None:
    encrypted = encrypt(plain[media_type], [name])
    with Containerd(tmp_path, keys[name].private) as containerd:
        result = containerd.run(encrypted, "--skip-decrypt-auth")
        assert (result.returncode, result.stdout, result.stderr) == (0, images.expected_output(), "")
        assert containerd.decoder_runs == ALL_LAYERS
        blobs = containerd.blobs
    assert blobs >= {descriptor["digest"] for descriptor in encrypted.layers}
    assert blobs.isdisjoint(descriptor["digest"] for descriptor in plain[media_type].layers)


@pytest.mark.parametrize("media_type", MEDIA_TYPES)
def test_runs_with_the_key_in_the_payload(
    media_type: str, plain: dict[str, Layout], encrypt: Encrypt, keys: dict[str, KeyPair], tmp_path: Path
) -> None:
    encrypted = encrypt(plain[media_type], ["rsa2048", "p384"])
    with Containerd(tmp_path) as containerd:
        result = containerd.run(encrypted, "--key", str(keys["p384"].private))
        assert (result.returncode, result.stdout, result.stderr) == (0, images.expected_output(), "")
        assert containerd.decoder_runs == ALL_LAYERS


@pytest.mark.parametrize("media_type", MEDIA_TYPES)
def test_does_not_run_without_the_key(
    media_type: str, plain: dict[str, Layout], encrypt: Encrypt, keys: dict[str, KeyPair], tmp_path: Path
) -> None:
    encrypted = encrypt(plain[media_type], ["rsa2048"])
    with Containerd(tmp_path, keys["rsa4096"].private) as containerd:
        result = containerd.run(encrypted, "--skip-decrypt-auth")
        assert containerd.decoder_runs
    assert (result.returncode, result.stdout) == (1, "")

    descriptor = encrypted.layers[0]
    parameters = {"privkeys": [keys["rsa4096"].private.read_bytes()]}
    direct = run_decoder(payload_bytes(descriptor, parameters), encrypted.read(descriptor))
    assert (direct.status, direct.plaintext) == (4, b"")
    first_line, _, _ = direct.errors.partition("\n")
    assert first_line in result.stderr
    assert "RSA 4096" in result.stderr


def test_a_client_that_sends_no_payload_needs_keys_on_the_node(
    plain: dict[str, Layout], encrypt: Encrypt, keys: dict[str, KeyPair], tmp_path: Path
) -> None:
    encrypted = encrypt(plain[images.GZIP], ["rsa2048"])
    with Containerd(tmp_path) as containerd:
        result = containerd.import_image(encrypted)
        assert containerd.decoder_runs
    assert result.returncode == 1
    assert "ctd-decoder: error: no key opens this layer" in result.stderr
