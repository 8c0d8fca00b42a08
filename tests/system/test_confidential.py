"""Containers whose key is at a key broker alone: registered while encrypting, and fetched by containerd's decoder."""

from __future__ import annotations

import json
import subprocess
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwcrypto.jwk import JWK

from decoder.formats import wire
from tests.support.coco.kbs_server import KbsServer, issue_token
from tests.support.image import images
from tests.support.image.images import Layout
from tests.support.keywrap.layers import ec_key, pem
from tests.support.network.loopback import Authority
from tests.support.node.containerd import SOCKET, Containerd
from tests.support.program.processes import PROGRAM
from tests.support.provider.serving import write_key

CONFIGURATION = "/etc/containerd/ocicrypt/ocicrypt_keyprovider.conf"  # fixed by containerd's default configuration
ANNOTATION = "org.opencontainers.image.enc.keys.provider.attestation-agent"
KID = "kbs:///default/image_key/nginx"
TEE_KEY = ec_key(ec.SECP256R1)
_SECONDS = 60


class Guarded(NamedTuple):
    """An encrypted image, and the broker that has its key."""

    layout: Layout
    broker: KbsServer
    ca_file: Path


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """The image, encrypted with a key that is registered; the file of the key is gone."""
    directory = tmp_path_factory.mktemp("encrypting")
    plain = images.write_image(directory / "plain", images.GZIP)
    authority = Authority(directory)
    with KbsServer(authority.server_context("127.0.0.1")) as broker:
        subprocess.run(
            ["openssl", "genpkey", "-algorithm", "ed25519", "-out", directory / "admin.pem"],
            check=True,
            timeout=_SECONDS,
        )
        admin = load_pem_private_key((directory / "admin.pem").read_bytes(), None)
        assert isinstance(admin, ed25519.Ed25519PrivateKey)
        broker.admin = admin.public_key()
        (directory / "image_key").write_bytes(bytes(range(32)))
        result = subprocess.run(
            [
                *(PROGRAM, "image", "encrypt", "--kbs", broker.url, "--kbs-ca", str(authority.file)),
                *("--kbs-auth-key", str(directory / "admin.pem")),
                *("--recipient", f"provider:attestation-agent:keyid={KID}::keypath=image_key"),
                *(f"oci:{plain.directory}:{images.NAME}", f"oci:{directory / 'encrypted'}:{images.NAME}"),
            ],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            cwd=directory,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        (directory / "image_key").unlink()
        assert broker.resources == {"default/image_key/nginx": bytes(range(32))}
        yield Guarded(Layout(directory / "encrypted"), broker, authority.file)


def configuration(directory: Path, **options: Any) -> str:
    """Write a configuration of keyproviders with our own provider, and return its path."""
    file = directory / "keyproviders.json"
    named = {name.replace("_", "-"): value for name, value in options.items()}
    file.write_text(json.dumps({"key-providers": {"attestation-agent": {"native": "attestation-agent", **named}}}))
    return str(file)


def run(guarded: Guarded, directory: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the image on a fresh containerd whose decoder asks the broker."""
    source = [f"kbs:{guarded.broker.url}"]
    config_file = configuration(directory, source=source, kbs_ca=str(guarded.ca_file), **options)
    with Containerd(directory) as containerd:
        target = Path(str(containerd.socket).removesuffix(SOCKET)) / CONFIGURATION.lstrip("/")
        target.write_bytes(Path(config_file).read_bytes())
        result = containerd.run(guarded.layout, "--skip-decrypt-auth")
        assert containerd.decoder_runs
    return result


def passport(directory: Path, seconds: float = 300) -> dict[str, str]:
    """Write an attestation token and the key that it names."""
    token = directory / "token"
    token.write_text(issue_token(JWK.from_pyca(TEE_KEY.public_key()).export_public(as_dict=True), seconds))
    return {"kbs_token": str(token), "tee_key": str(write_key(directory / "tee.pem", pem(TEE_KEY)))}


def test_the_annotation_is_what_guests_read(guarded: Guarded) -> None:
    for descriptor in guarded.layout.layers:
        assert descriptor["mediaType"] == f"{images.GZIP}+encrypted"
        packet = json.loads(b64decode(descriptor["annotations"][ANNOTATION]))
        assert list(packet) == ["kid", "wrapped_data", "iv", "wrap_type"]
        assert (packet["kid"], packet["wrap_type"], len(wire.decode_base64(packet["iv"]))) == (KID, "A256GCM", 12)


def test_runs_with_a_token(guarded: Guarded, tmp_path: Path) -> None:
    result = run(guarded, tmp_path, **passport(tmp_path))
    assert (result.returncode, result.stdout, result.stderr) == (0, images.expected_output(), "")


def test_runs_with_the_sample_attester(guarded: Guarded, tmp_path: Path) -> None:
    result = run(guarded, tmp_path, tee="sample")
    assert (result.returncode, result.stdout, result.stderr) == (0, images.expected_output(), "")


def test_does_not_run_with_an_expired_token(guarded: Guarded, tmp_path: Path) -> None:
    options = passport(tmp_path, -600)
    result = run(guarded, tmp_path, **options)
    assert (result.returncode, result.stdout) == (1, "")
    assert f"source kbs:{guarded.broker.url}, kid {KID}: it answers TokenVerifierError" in result.stderr
    assert Path(options["kbs_token"]).read_text() not in result.stderr


def test_does_not_run_without_the_broker_s_consent(guarded: Guarded, tmp_path: Path) -> None:
    guarded.broker.denied.add("default/image_key/nginx")
    try:
        result = run(guarded, tmp_path, **passport(tmp_path))
    finally:
        guarded.broker.denied.clear()
    assert (result.returncode, result.stdout) == (1, "")
    assert f"source kbs:{guarded.broker.url}, kid {KID}: it answers PolicyDeny" in result.stderr
