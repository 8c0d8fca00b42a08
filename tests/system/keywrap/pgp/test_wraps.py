"""PGP messages that we write, and choosing recipients."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from decoder import limits
from decoder.errors import KeyFileError
from decoder.formats import wire
from decoder.keywrap import pgp
from decoder.keywrap.pgp.gnupg import gnupg_keyring
from decoder.keywrap.pgp.keyring import select
from tests.support.image import images
from tests.support.keywrap.layers import encrypted, private_options
from tests.support.keywrap.pgp_parts import ANNOTATION, OPTIONS, PASSWORDS, mutated, secret, unwrap
from tests.support.program.processes import REFERENCE, payload_bytes, run_decoder

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.keys.pgp_home import GnupgHome

# What ours writes.


@pytest.fixture(scope="module")
def wrapped_layer(home: GnupgHome) -> Any:
    tar = images.packed(images.tar_of({"greet": b"hello" * 5000}), images.GZIP)
    options = private_options(digest=images.digest_of(tar.blob))
    recipients = [home.public(f"{name}@example.com") for name in ("rsa", "rsa-locked")]
    return encrypted(tar.blob, {"pgp": [pgp.wrap(options, recipients)]})


@pytest.mark.parametrize("name", ["rsa", "rsa-locked"])
def test_reference_reads_what_ours_wraps(home: GnupgHome, wrapped_layer: Any, name: str) -> None:
    material = secret(home, name)
    parameters = {"gpg-privatekeys": [material.data], "gpg-privatekeys-passwords": [material.password]}
    result = run_decoder(
        payload_bytes(wrapped_layer.descriptor, parameters), wrapped_layer.ciphertext, program=REFERENCE
    )
    assert (result.status, result.plaintext) == (0, wrapped_layer.plaintext)


@pytest.mark.parametrize("name", ["rsa", "rsa-locked", "cv", "cv-open"])
def test_gpg_reads_what_ours_wraps(home: GnupgHome, name: str) -> None:
    certificate = home.run("--armor", "--export", f"{name}@example.com")
    wrapped = pgp.wrap(OPTIONS, [certificate])
    assert home.run(f"--passphrase={PASSWORDS.get(name, '')}", "--decrypt", stdin=wrapped) == OPTIONS
    listed = home.run(f"--passphrase={PASSWORDS.get(name, '')}", "--list-packets", stdin=wrapped).decode()
    assert "compressed packet" not in listed
    assert "mdc_method: 2" in listed


def test_skopeo_reads_what_ours_wraps(home: GnupgHome, wrapped_layer: Any, tmp_path: Path) -> None:
    plain = images.Layer(wrapped_layer.plaintext, images.GZIP)
    source = images.write_layers(tmp_path / "source", [plain])
    descriptor = source.add(wrapped_layer.ciphertext, wrapped_layer.descriptor["mediaType"])
    descriptor["annotations"] = wrapped_layer.descriptor["annotations"]
    source.write_manifest(source.read_json(source.manifest["config"]), [descriptor])
    key = tmp_path / "rsa.gpg"
    key.write_bytes(secret(home, "rsa").data)
    skopeo(home, source, tmp_path / "target", f"--decryption-key={key}")
    target = images.Layout(tmp_path / "target")
    assert [target.read(layer) for layer in target.layers] == [wrapped_layer.plaintext]


def test_opens_what_skopeo_wraps(home: GnupgHome, tmp_path: Path) -> None:
    source = images.write_layers(tmp_path / "source", [images.packed(images.tar_of({"a": b"b"}), images.GZIP)])
    skopeo(home, source, tmp_path / "target", "--encryption-key=pgp:rsa@example.com")
    (layer,) = images.Layout(tmp_path / "target").layers
    wrapped = wire.decode_base64(layer["annotations"][ANNOTATION])
    opened, refusals = unwrap(wrapped, secret(home, "rsa"))
    assert refusals == []
    assert opened is not None
    assert json.loads(opened)["digest"] == source.layers[0]["digest"]


def skopeo(home: GnupgHome, source: images.Layout, target: Path, option: str) -> None:
    command = ["skopeo", "--insecure-policy", "copy", option, f"oci:{source.directory}:{images.NAME}"]
    result = subprocess.run(
        [*command, f"oci:{target}:{images.NAME}"],
        capture_output=True,
        env={**os.environ, "GNUPGHOME": str(home.path)},
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_wrap_refuses_more_recipients_than_unwrap_reads(home: GnupgHome) -> None:
    certificate = home.public("cv@example.com")
    with pytest.raises(KeyFileError, match="a message that would not be opened: it has more than 64 recipients"):
        pgp.wrap(OPTIONS, [certificate] * (limits.PGP_RECIPIENTS + 1))
    assert unwrap(pgp.wrap(OPTIONS, [certificate] * limits.PGP_RECIPIENTS), secret(home, "cv")) == (OPTIONS, [])


def test_wrap_refuses_a_certificate_that_only_signs(home: GnupgHome) -> None:
    home.run("--passphrase=", "--quick-gen-key", "signer@example.com", "ed25519", "cert,sign")
    with pytest.raises(KeyFileError, match="no key that encryption is allowed with"):
        pgp.wrap(OPTIONS, [home.public("signer@example.com")])


# Choosing recipients.


def test_select(home: GnupgHome) -> None:
    fingerprint = home.fingerprints("rsa@example.com")[0]
    keyring = gnupg_keyring(str(home.path))
    expected = home.public(fingerprint)
    spaced = " ".join(fingerprint[at : at + 4] for at in range(0, 40, 4))
    for wanted in (
        "rsa@example.com",
        "RSA@Example.com",
        "Rsa Key",
        "Rsa Key (work) <rsa@example.com>",
        fingerprint,
        fingerprint.lower(),
        f"0x{fingerprint}",
        spaced,
        fingerprint[-16:],
    ):
        assert select(keyring, wanted) == expected, wanted
    assert select(home.run("--armor", "--export"), "rsa@example.com") == expected


@pytest.mark.parametrize(
    "wanted", ["", " ", "example.com", "rsa", "nobody@example.com", "0x12345678", "*", "\udcff", "--help"]
)
def test_select_finds_nothing(home: GnupgHome, wanted: str) -> None:
    with pytest.raises(KeyFileError, match="the keyring holds no OpenPGP certificate for"):
        select(home.public(), wanted)


def test_mutated_certificates(home: GnupgHome) -> None:
    source = home.public("cv@example.com")
    fingerprint = home.fingerprints("cv@example.com")[0]
    dice = random.Random(6)
    refused = 0
    for number in range(1500):
        certificate = mutated(source, dice)
        try:
            if number % 3:
                select(certificate, "cv@example.com" if number % 3 == 1 else fingerprint)
            else:
                pgp.wrap(OPTIONS, [certificate])
        except KeyFileError:
            refused += 1
    assert refused > 500


def test_gnupg_keyring_failures(home: GnupgHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyFileError, match="no-such-gpg cannot be run: No such file or directory"):
        gnupg_keyring(str(home.path), "no-such-gpg")
    with pytest.raises(KeyFileError, match=r"gpg --export fails with status 2; its home .*/missing', which is not"):
        gnupg_keyring(str(tmp_path / "missing"))
    odd = tmp_path / "--version"
    odd.mkdir(mode=0o700)
    assert gnupg_keyring(str(odd)) == b""
    monkeypatch.setattr(limits, "PGP_KEYRING_BYTES", 100)
    with pytest.raises(KeyFileError, match="gpg exports more than 100 bytes"):
        gnupg_keyring(str(home.path))
    slow = tmp_path / "slow"
    monkeypatch.setattr(limits, "GPG_SECONDS", 0.2)
    for script in ("exec sleep 60", "exec sleep 60 >&-"):
        slow.write_text(f"#!/bin/sh\n{script}\n")
        slow.chmod(0o700)
        started = time.monotonic()
        with pytest.raises(KeyFileError, match="takes longer than"):
            gnupg_keyring(str(home.path), str(slow))
        assert time.monotonic() - started < 30
