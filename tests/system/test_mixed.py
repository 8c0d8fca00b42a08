"""One image wrapped in several schemes at once: each key alone opens it, whoever wrapped and whoever opens."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from decoder.keywrap import load
from decoder.layer import annotations as layer
from decoder.layer import stream
from decoder.layer.annotations import PrivateOptions
from tests.support.image import images
from tests.support.image.images import Layout
from tests.support.keys.pgp_home import GnupgHome
from tests.support.keywrap.layers import MemoryFile, sink_of, source_of
from tests.support.node.containerd import CTR_IMGCRYPT, IMAGE, SOCKET, Containerd
from tests.support.program.processes import REFERENCE, payload_bytes, run_decoder

if TYPE_CHECKING:
    from tests.support.keys.keypairs import KeyPair

EMAIL = "images@example.com"
TARGET = "localhost/image:encrypted"


class Recipients(NamedTuple):
    """What encrypts, as skopeo's options have it, and per scheme the parameters that open."""

    options: list[str]
    public: dict[str, bytes]
    parameters: dict[str, dict[str, list[bytes]]]
    files: dict[str, dict[str, bytes]]
    home: GnupgHome
    certificate: Path


@pytest.fixture(scope="module")
def recipients(keys: dict[str, KeyPair], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recipients]:
    directory = tmp_path_factory.mktemp("mixed")
    certificate, pgp = directory / "cert.pem", directory / "secret.gpg"
    command = ["openssl", "req", "-x509", "-new", "-key", str(keys["rsa4096"].private)]
    command += ["-subj", "/CN=image", "-days", "2", "-out", str(certificate)]
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    home = GnupgHome()
    try:
        fingerprint = home.make_key(f"Images <{EMAIL}>", "rsa")
        pgp.write_bytes(home.secret(fingerprint))
        jwe_key, cms_key = keys["p256"].private.read_bytes(), keys["rsa4096"].private.read_bytes()
        yield Recipients(
            options=[f"jwe:{keys['p256'].public}", f"pkcs7:{certificate}", f"pgp:{EMAIL}"],
            public={
                "jwe": keys["p256"].public.read_bytes(),
                "pkcs7": certificate.read_bytes(),
                "pgp": home.public(fingerprint),
            },
            parameters={
                "jwe": {"privkeys": [in_pkcs8(jwe_key)], "privkeys-passwords": [b""]},
                "pkcs7": {"privkeys": [cms_key], "privkeys-passwords": [b""], "x509s": [certificate.read_bytes()]},
                "pgp": {"gpg-privatekeys": [pgp.read_bytes()], "gpg-privatekeys-passwords": [b""]},
            },
            files={
                "jwe": {"key.pem": jwe_key},
                "pkcs7": {"both.pem": cms_key + certificate.read_bytes()},
                "pgp": {"secret.gpg": pgp.read_bytes()},
            },
            home=home,
            certificate=certificate,
        )
    finally:
        home.close()


def in_pkcs8(key: bytes) -> bytes:
    """Write a key as the reference wants it."""
    command = ["openssl", "pkcs8", "-topk8", "-nocrypt"]
    return subprocess.run(command, input=key, check=True, timeout=60, capture_output=True).stdout


def skopeo(home: GnupgHome, *arguments: str | Path) -> None:
    """Copy an image with the keys of a GnuPG home at hand."""
    command = ["skopeo", "--insecure-policy", "copy", "--dest-oci-accept-uncompressed-layers", *arguments]
    environment = {**os.environ, "GNUPGHOME": str(home.path)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr


def assert_each_key_opens(
    descriptor: dict[str, Any], ciphertext: bytes, plaintext: bytes, recipients: Recipients, directory: Path
) -> None:
    """Decrypt with the key of one scheme at a time, from the payload and from a directory."""
    assert {layer.KEYS_PREFIX + scheme for scheme in ("jwe", "pkcs7", "pgp")} < set(descriptor["annotations"])
    for scheme, parameters in recipients.parameters.items():
        result = run_decoder(payload_bytes(descriptor, parameters), ciphertext)
        assert result == (0, plaintext, ""), scheme
        keys = directory / scheme
        keys.mkdir(exist_ok=True)
        for name, content in recipients.files[scheme].items():
            (keys / name).write_bytes(content)
        result = run_decoder(payload_bytes(descriptor, None), ciphertext, "--decryption-keys-path", str(keys))
        assert result == (0, plaintext, ""), scheme


def test_opens_what_skopeo_wraps(recipients: Recipients, plain: dict[str, Layout], tmp_path: Path) -> None:
    source, target = plain[images.GZIP], Layout(tmp_path / "encrypted")
    options = [part for option in recipients.options for part in ("--encryption-key", option)]
    skopeo(recipients.home, *options, f"oci:{source.directory}:{images.NAME}", f"oci:{target.directory}:{images.NAME}")
    last, plain_last = target.layers[-1], source.layers[-1]
    assert_each_key_opens(last, target.read(last), source.read(plain_last), recipients, tmp_path)


def test_opens_what_imgcrypt_wraps(recipients: Recipients, plain: dict[str, Layout], tmp_path: Path) -> None:
    source = plain[images.GZIP]
    (tmp_path / "containerd").mkdir()
    with Containerd(tmp_path / "containerd") as containerd:
        assert containerd.import_image(source).returncode == 0
        options = [part for option in recipients.options for part in ("--recipient", option)]
        home = ["--gpg-homedir", str(recipients.home.path), "--gpg-version", "v1"]
        command = [str(CTR_IMGCRYPT), "--address", SOCKET, "images", "encrypt", *home, *options, IMAGE, TARGET]
        encrypted = containerd.execute(*command)
        assert encrypted.returncode == 0, encrypted.stderr
        listed = containerd.ctr("images", "list").stdout.splitlines()
        manifest = json.loads(
            containerd.ctr("content", "get", next(x.split()[2] for x in listed if TARGET in x)).stdout
        )
        while "manifests" in manifest:
            manifest = json.loads(containerd.ctr("content", "get", manifest["manifests"][0]["digest"]).stdout)
        last = manifest["layers"][-1]
        ciphertext = (containerd.store / last["digest"].removeprefix("sha256:")).read_bytes()
    assert_each_key_opens(last, ciphertext, source.read(source.layers[-1]), recipients, tmp_path)


def test_others_open_what_ours_wraps(recipients: Recipients, plain: dict[str, Layout], tmp_path: Path) -> None:
    source = plain[images.GZIP]
    target = Layout(tmp_path / "ours")
    descriptors = []
    for descriptor in source.layers:
        key, nonce, ciphertext = os.urandom(32), os.urandom(16), MemoryFile()
        hmac = stream.encrypt(source_of(source.read(descriptor)), sink_of(ciphertext), key, nonce)
        options = layer.build_private_options(PrivateOptions(key, nonce, descriptor["digest"]))
        wrapped = {scheme: [load(scheme).wrap(options, [public])] for scheme, public in recipients.public.items()}
        entry = target.add(ciphertext.getvalue(), descriptor["mediaType"] + layer.ENCRYPTED)
        descriptors.append({**entry, "annotations": layer.build_annotations(hmac, wrapped)})
    target.write_manifest(json.loads(source.read(source.manifest["config"])), descriptors)

    last, plaintext = descriptors[-1], source.read(source.layers[-1])
    assert_each_key_opens(last, target.read(last), plaintext, recipients, tmp_path)
    for scheme, parameters in recipients.parameters.items():
        result = run_decoder(payload_bytes(last, parameters), target.read(last), program=REFERENCE)
        assert (result.status, result.plaintext) == (0, plaintext), f"{scheme}: {result.errors}"

    (tmp_path / "jwe.pem").write_bytes(recipients.parameters["jwe"]["privkeys"][0])
    (tmp_path / "cms.pem").write_bytes(recipients.parameters["pkcs7"]["privkeys"][0])
    (tmp_path / "pgp.gpg").write_bytes(recipients.files["pgp"]["secret.gpg"])
    for number, names in enumerate((["jwe.pem"], ["cms.pem", str(recipients.certificate)], ["pgp.gpg"])):
        decrypted = Layout(tmp_path / f"decrypted{number}")
        opening = [part for name in names for part in ("--decryption-key", str(tmp_path / name))]
        places = (f"oci:{target.directory}:{images.NAME}", f"oci:{decrypted.directory}:{images.NAME}")
        skopeo(recipients.home, *opening, *places)
        assert [decrypted.read(each) for each in decrypted.layers] == [source.read(each) for each in source.layers]


def test_all_reasons_are_reported_and_keyproviders_first(recipients: Recipients, plain: dict[str, Layout]) -> None:
    source = plain[images.GZIP]
    wrapped = {scheme: [load(scheme).wrap(b"x", [public])] for scheme, public in recipients.public.items()}
    wrapped["provider.absent"] = [b"x"]
    wrapped["pkcs11"] = [b"{}"]
    descriptor = {
        "mediaType": source.layers[-1]["mediaType"] + layer.ENCRYPTED,
        "annotations": layer.build_annotations(bytes(32), wrapped),
    }
    result = run_decoder(payload_bytes(descriptor, {}), b"")
    assert result.status == 4
    order = [line.split("keys.")[1].split("[")[0] for line in result.errors.splitlines() if "enc.keys." in line]
    assert order == ["provider.absent", "jwe", "pkcs7", "pgp", "pkcs11"]
