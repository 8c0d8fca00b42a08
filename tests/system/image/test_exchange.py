"""Others read what ours writes, and ours reads what they write."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from jwcrypto.jwk import JWK

from decoder.layer import annotations as layer
from tests.support.image import images
from tests.support.image.command import blobs, done, oci, run
from tests.support.image.images import Layout
from tests.support.node.containerd import CTR_IMGCRYPT, IMAGE, SOCKET, Containerd
from tests.support.program.processes import REFERENCE, payload_bytes, run_decoder

if TYPE_CHECKING:
    from tests.support.keys.keypairs import KeyPair
    from tests.support.keys.parties import Party
    from tests.support.keys.pgp_home import GnupgHome

PROTOCOLS = ["jwe", "pkcs7", "pgp"]
DOCKER = images.DOCKER_GZIP


def skopeo(home: GnupgHome, *arguments: str) -> None:
    command = ["skopeo", "--insecure-policy", "copy", "--dest-oci-accept-uncompressed-layers", *arguments]
    environment = {**os.environ, "GNUPGHOME": str(home.path)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr


def encrypt(source: Layout, target: Layout, home: GnupgHome, *parties: Party) -> None:
    recipients = [option for party in parties for option in ("--recipient", party.recipient)]
    done("encrypt", oci(source, images.NAME), oci(target, "new"), *recipients, "--gpg-homedir", home.path)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_others_open_what_ours_encrypts(
    protocol: str, parties: dict[str, Party], gzipped: Layout, gnupg: GnupgHome, target: Layout, tmp_path: Path
) -> None:
    party = parties[protocol]
    encrypt(gzipped, target, gnupg, party)
    assert {each["mediaType"] for each in target.layers} == {layer.OCI_TAR + "+gzip" + layer.ENCRYPTED}

    decrypted = Layout(tmp_path / "decrypted")
    skopeo(gnupg, *party.skopeo, oci(target, "new"), oci(decrypted, "plain"))
    assert blobs(decrypted) == blobs(gzipped)
    for descriptor, plaintext in zip(target.layers, blobs(gzipped), strict=True):
        payload = payload_bytes(descriptor, party.parameters)
        result = run_decoder(payload, target.read(descriptor), program=REFERENCE)
        assert (result.status, result.plaintext) == (0, plaintext), result.errors


def test_skopeo_opens_what_has_key_ids(
    keys: dict[str, KeyPair], gzipped: Layout, gnupg: GnupgHome, target: Layout, tmp_path: Path
) -> None:
    """Several JWE recipients, one of them a JWK with an ID of its own."""
    jwk = tmp_path / "key.jwk"
    jwk.write_text(json.dumps({**json.loads(JWK.from_pem(keys["rsa2048"].public.read_bytes()).export()), "kid": "me"}))
    recipients = [f"jwe:{jwk}", f"jwe:{keys['p384'].public}", f"jwe:{keys['rsa4096'].public}"]
    options = [part for text in recipients for part in ("--recipient", text)]
    done("encrypt", oci(gzipped, images.NAME), oci(target, "new"), *options)
    (first, *_) = done("layerinfo", oci(target), "--json").value["layers"]
    assert [each["name"].split()[1][:7] for each in first["recipients"]] == ["me", "sha256:", "sha256:"]
    for number, name in enumerate(("rsa2048", "rsa4096")):
        decrypted = Layout(tmp_path / str(number))
        skopeo(gnupg, "--decryption-key", str(keys[name].private), oci(target, "new"), oci(decrypted, "plain"))
        assert blobs(decrypted) == blobs(gzipped)


@pytest.mark.parametrize(
    ("protocol", "media_type"), [*((each, images.GZIP) for each in PROTOCOLS), ("jwe", images.TAR), ("jwe", DOCKER)]
)
def test_ours_opens_what_skopeo_encrypts(
    request: pytest.FixtureRequest, protocol: str, media_type: str, gnupg: GnupgHome, target: Layout, tmp_path: Path
) -> None:
    party: Party = request.getfixturevalue("parties")[protocol]
    source: Layout = request.getfixturevalue("plain")[media_type]
    encrypted = Layout(tmp_path / "encrypted")
    skopeo(gnupg, "--encryption-key", party.recipient, oci(source, images.NAME), oci(encrypted, "secret"))
    done("decrypt", oci(encrypted, "secret"), oci(target, "plain"), *party.ours)
    assert blobs(target) == blobs(source)
    assert {each["mediaType"] for each in target.layers} == {images.TAR if media_type == images.TAR else images.GZIP}
    assert not any("annotations" in each for each in target.layers)


def test_umoci_unpacks_what_ours_decrypts(
    parties: dict[str, Party], gzipped: Layout, gnupg: GnupgHome, target: Layout, tmp_path: Path
) -> None:
    encrypt(gzipped, target, gnupg, *parties.values())
    assert run("umoci", "ls", "--layout", target.directory).split() == ["new"]
    run("umoci", "stat", "--image", f"{target.directory}:new")
    decrypted = Layout(tmp_path / "decrypted")
    done("decrypt", oci(target), oci(decrypted, "plain"), *parties["pgp"].ours)
    run("umoci", "unpack", "--image", f"{decrypted.directory}:plain", tmp_path / "bundle")
    assert (tmp_path / "bundle/rootfs/noise").read_bytes() == images.noise()


def test_a_container_runs_from_what_ours_encrypts(
    parties: dict[str, Party], gzipped: Layout, gnupg: GnupgHome, target: Layout, tmp_path: Path
) -> None:
    recipients = [option for party in parties.values() for option in ("--recipient", party.recipient)]
    places = oci(gzipped, images.NAME), oci(target, images.NAME)
    done("encrypt", *places, *recipients, "--gpg-homedir", gnupg.path)
    (tmp_path / "containerd").mkdir()
    with Containerd(tmp_path / "containerd") as containerd:
        result = containerd.run(target, *parties["jwe"].ours)
        assert (result.returncode, result.stdout) == (0, images.expected_output()), result.stderr
        assert len(containerd.decoder_runs) == len(target.layers)


def test_ours_opens_what_imgcrypt_encrypts(
    parties: dict[str, Party], gzipped: Layout, gnupg: GnupgHome, target: Layout, tmp_path: Path
) -> None:
    (tmp_path / "containerd").mkdir()
    archive = tmp_path / "encrypted.tar"
    with Containerd(tmp_path / "containerd") as containerd:
        assert containerd.import_image(gzipped).returncode == 0
        recipients = [part for party in parties.values() for part in ("--recipient", party.recipient)]
        home = ["--gpg-homedir", str(gnupg.path), "--gpg-version", "v1"]
        name = "localhost/image:encrypted"
        command = [str(CTR_IMGCRYPT), "--address", SOCKET, "images", "encrypt", *home, *recipients, IMAGE, name]
        encrypted = containerd.execute(*command)
        assert encrypted.returncode == 0, encrypted.stderr
        exported = containerd.ctr("images", "export", str(archive), name)
        assert exported.returncode == 0, exported.stderr
    for number, party in enumerate(parties.values()):
        place = Layout(target.directory / str(number))
        done("decrypt", f"oci-archive:{archive}:{name}", oci(place, "plain"), *party.ours)
        assert blobs(place) == blobs(gzipped)
