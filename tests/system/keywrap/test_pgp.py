"""OpenPGP against GnuPG, skopeo and the reference decoder, and what is refused before key work."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from decoder import limits
from decoder.errors import KeyFileError, WrappedKeyError
from decoder.formats import wire
from decoder.keys.file import KeyMaterial
from decoder.keywrap import pgp
from decoder.keywrap.pgp import packets
from decoder.keywrap.pgp.gnupg import gnupg_keyring
from decoder.keywrap.pgp.keyring import select
from decoder.keywrap.pgp.message import parse_message
from decoder.keywrap.pgp.secretkey import find_secret_keys
from tests.support import images
from tests.support import pgp_writer as writer
from tests.support.layers import encrypted, private_options
from tests.support.pgp_home import GnupgHome
from tests.support.pgp_parts import ANNOTATION, OPTIONS, PASSPHRASE, PASSWORDS, mutated, secret, unwrap
from tests.support.processes import REFERENCE, payload_bytes, run_decoder


@pytest.fixture(scope="module")
def home() -> Iterator[GnupgHome]:
    home = GnupgHome()
    try:
        home.make_key("Rsa Key (work) <rsa@example.com>", "rsa")
        home.make_key("rsa-locked@example.com", "rsa", PASSPHRASE)
        home.make_key("Curve Key <cv@example.com>", "cv", PASSPHRASE)
        home.make_key("cv-open@example.com", "cv")
        yield home
    finally:
        home.close()


@pytest.fixture(scope="module")
def rsa_secret(home: GnupgHome) -> KeyMaterial:
    return secret(home, "rsa")


@pytest.fixture(scope="module")
def rsa_public(rsa_secret: KeyMaterial) -> tuple[rsa.RSAPublicKey, bytes]:
    """The encryption subkey of `rsa_secret` and its key ID."""
    key = find_secret_keys(rsa_secret)[0]
    modulus, exponent = map(int.from_bytes, key.numbers)
    return rsa.RSAPublicNumbers(exponent, modulus).public_key(), key.key_id


# What others write.


@pytest.mark.parametrize("armour", [(), ("--armor",)], ids=["binary", "armoured"])
@pytest.mark.parametrize("options", [(), ("--hidden-recipient",), ("--throw-keyids",)], ids=" ".join)
@pytest.mark.parametrize("name", ["rsa", "rsa-locked", "cv", "cv-open"])
def test_opens_what_gpg_encrypts(home: GnupgHome, name: str, options: tuple[str, ...], armour: tuple[str, ...]) -> None:
    address = f"{name}@example.com"
    if options == ("--hidden-recipient",):
        options = (*options, address)
    assert unwrap(home.encrypt(OPTIONS, address, *options), secret(home, name, *armour)) == (OPTIONS, [])


@pytest.mark.parametrize("algorithm", ["none", "zip", "zlib", "bzip2"])
def test_opens_compressed_content(home: GnupgHome, rsa_secret: KeyMaterial, algorithm: str) -> None:
    wrapped = home.encrypt(OPTIONS * 100, "rsa@example.com", f"--compress-algo={algorithm}")
    assert unwrap(wrapped, rsa_secret) == (OPTIONS * 100, [])


def test_opens_signed_content(home: GnupgHome, rsa_secret: KeyMaterial) -> None:
    wrapped = home.encrypt(OPTIONS, "rsa@example.com", "--sign", "--local-user=rsa@example.com")
    assert unwrap(wrapped, rsa_secret) == (OPTIONS, [])


def test_opens_with_the_one_fitting_key_of_a_keyring(home: GnupgHome) -> None:
    names = ["rsa", "cv-open"]
    binary = b"".join(secret(home, name).data for name in names)
    armoured = b"".join(secret(home, name, "--armor").data for name in names)
    for data in (binary, armoured, armoured.replace(b"\n", b"\r\n")):
        for name in names:
            wrapped = home.encrypt(OPTIONS, f"{name}@example.com")
            assert unwrap(wrapped, KeyMaterial("ring.gpg", data)) == (OPTIONS, [])


def test_opens_with_older_and_expired_subkeys(home: GnupgHome) -> None:
    """GnuPG decrypts with them too: an image outlives the key that it was encrypted to."""
    then = "--faked-system-time=20200101T000000!"
    fingerprint = home.make_key("old@example.com", "cv", "", then, expires="1y")
    wrapped = [home.encrypt(OPTIONS, "old@example.com", then)]
    later = "--faked-system-time=20200601T000000!"
    home.run("--passphrase=", later, "--quick-add-key", fingerprint, "cv25519", "encr", "1y")
    wrapped.append(home.encrypt(OPTIONS, "old@example.com", later))
    assert len({parse_message(message).wanted() for message in wrapped}) == 2
    for message in wrapped:
        assert unwrap(message, secret(home, "old")) == (OPTIONS, [])
    with pytest.raises(KeyFileError, match="it expired on 2020-12-31"):
        pgp.wrap(OPTIONS, [home.public(fingerprint)])


def test_opens_with_a_primary_key_that_encrypts(home: GnupgHome) -> None:
    home.run("--passphrase=", "--quick-gen-key", "single@example.com", "rsa2048", "cert,sign,encr")
    assert unwrap(home.encrypt(OPTIONS, "single@example.com"), secret(home, "single")) == (OPTIONS, [])


@pytest.mark.parametrize("cipher", ["3DES", "CAST5", "AES", "AES192", "AES256"])
def test_opens_every_cipher(home: GnupgHome, rsa_secret: KeyMaterial, cipher: str) -> None:
    wrapped = home.encrypt(OPTIONS, "rsa@example.com", f"--cipher-algo={cipher}")
    assert unwrap(wrapped, rsa_secret) == (OPTIONS, [])


@pytest.mark.parametrize("curve", ["nistp256", "nistp384", "nistp521"])
def test_opens_with_nist_curves(home: GnupgHome, curve: str) -> None:
    fingerprint = home.make_key(f"{curve}@example.com", "cv", PASSPHRASE)
    home.run(f"--passphrase={PASSPHRASE}", "--quick-add-key", fingerprint, curve, "encr")
    subkey = home.fingerprints(fingerprint)[2]
    material = KeyMaterial("ec.gpg", home.secret(fingerprint, passphrase=PASSPHRASE), PASSPHRASE.encode())
    assert unwrap(home.encrypt(OPTIONS, f"{subkey}!"), material) == (OPTIONS, [])


# Which key, and why not.


def test_says_which_keys_are_asked_for(home: GnupgHome, rsa_secret: KeyMaterial) -> None:
    wrapped = home.encrypt(OPTIONS, "cv@example.com", "--recipient=cv-open@example.com")
    wanted = sorted(home.fingerprints(f"{name}@example.com")[1][-16:] for name in ("cv", "cv-open"))
    reason = f"it holds no secret key with a key ID that the message asks for: {wanted[0]}, {wanted[1]}"
    assert unwrap(wrapped, rsa_secret) == (None, [f"rsa.gpg: {reason}"])


def test_says_what_is_wrong_with_the_passphrase(home: GnupgHome) -> None:
    wrapped = home.encrypt(OPTIONS, "cv@example.com")
    material = secret(home, "cv")
    name = f"cv.gpg (ECDH Curve25519, key ID {home.fingerprints('cv@example.com')[1][-16:]})"
    protected = f"{name}: it is protected by a passphrase, and"
    assert unwrap(wrapped, material._replace(password=b"")) == (None, [f"{protected} none was given"])
    for wrong in (b"wrong", b"\xff\xfe", PASSPHRASE.encode() + b"\n"):
        assert unwrap(wrapped, material._replace(password=wrong)) == (
            None,
            [f"{protected} the one that was given is wrong"],
        )
    assert unwrap(wrapped, material._replace(password=b""), material).plaintext == OPTIONS


def test_passphrase_for_a_key_that_needs_none(home: GnupgHome, rsa_secret: KeyMaterial) -> None:
    wrapped = home.encrypt(OPTIONS, "rsa@example.com")
    assert unwrap(wrapped, rsa_secret._replace(password=b"not needed")) == (OPTIONS, [])


def test_says_that_a_stub_has_no_secret_part(home: GnupgHome) -> None:
    """Such as the primary key of `--export-secret-subkeys`."""
    stub = home.run("--passphrase=", "--export-secret-subkeys", "rsa@example.com")
    primary = find_secret_keys(KeyMaterial("stub.gpg", stub))[-1]
    public, key_id = rsa.generate_private_key(65537, 2048).public_key(), primary.key_id
    wrapped = writer.message(writer.literal(OPTIONS), public, key_id)
    (refusal,) = unwrap(wrapped, KeyMaterial("stub.gpg", stub)).refusals
    assert refusal.endswith("its secret part is not in this file, but elsewhere or on a card")


def test_a_file_that_does_not_fit_is_not_worked_on(
    home: GnupgHome, rsa_secret: KeyMaterial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgp, "_open", None)
    assert unwrap(home.encrypt(OPTIONS, "cv@example.com"), *[rsa_secret] * 10).plaintext is None


def test_opening_needs_no_library(home: GnupgHome, rsa_secret: KeyMaterial, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped = home.encrypt(OPTIONS, "rsa@example.com")
    monkeypatch.setitem(sys.modules, "pysequoia", None)
    assert unwrap(wrapped, rsa_secret) == (OPTIONS, [])
    with pytest.raises(WrappedKeyError, match=r"pip install 'ctd-decoder\[pgp\] @ "):
        pgp.wrap(OPTIONS, [home.public("rsa@example.com")])
    with pytest.raises(WrappedKeyError, match=r"pip install 'ctd-decoder\[pgp\] @ "):
        select(home.public(), "rsa@example.com")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it holds no OpenPGP secret key"),
        (b"no key", "it is not an OpenPGP key: there is something that is no packet"),
        (b"\x94", "it is not an OpenPGP key: it ends too early"),
        (b"\x95\x00\x02\x04\x00", "it is not an OpenPGP key: it ends too early"),
        (b"\xc5\xe1\x04\x00", "it is not an OpenPGP key: a packet has a partial length that its type must not have"),
        (b"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nl?==\n", "it is not an OpenPGP key: its armour holds"),
        (b"\xc0\0" * (limits.PGP_PACKETS + 1), f"it is not an OpenPGP key: it has more than {limits.PGP_PACKETS} pa"),
        (bytes(limits.KEY_FILE_BYTES + 1), f"it is larger than {limits.KEY_FILE_BYTES} bytes"),
        (
            writer.packet(5, b"\4" + bytes(4) + b"\1" + writer.mpi(1 << 16384) + writer.mpi(65537) + b"\0"),
            "it is not an OpenPGP key: it has an RSA key of more than 16384 bits",
        ),
    ],
)
def test_says_what_a_file_is_instead_of_a_key(home: GnupgHome, data: bytes, reason: str) -> None:
    opened, refusals = unwrap(home.encrypt(OPTIONS, "rsa@example.com"), KeyMaterial("file", data))
    assert opened is None
    assert [refusal[: len(reason) + 6] for refusal in refusals] == [f"file: {reason}"]


def test_a_public_key_is_no_secret_key(home: GnupgHome, rsa_secret: KeyMaterial) -> None:
    opened, refusals = unwrap(
        home.encrypt(OPTIONS, "rsa@example.com"), KeyMaterial("public", home.public("rsa@example.com")), rsa_secret
    )
    reason = "it holds no OpenPGP secret key; RSA and ECDH keys of version 4 are supported"
    assert (opened, refusals) == (OPTIONS, [f"public: {reason}"])


# What is refused.


def test_refuses_what_is_not_encrypted_or_protected(
    home: GnupgHome, rsa_secret: KeyMaterial, rsa_public: tuple[rsa.RSAPublicKey, bytes]
) -> None:
    good = writer.message(writer.literal(OPTIONS), *rsa_public)
    share, data = (packet.raw for packet in packets.split(good, 2))
    assert unwrap(good, rsa_secret) == (OPTIONS, [])
    signed = home.run("--sign", "--local-user=rsa@example.com", stdin=OPTIONS)
    uncompressed = home.run("--sign", "--local-user=rsa@example.com", "--compress-algo=none", stdin=OPTIONS)
    symmetric = home.run("--passphrase=x", "--symmetric", stdin=OPTIONS)
    bad = {
        "it is not encrypted": [
            writer.literal(OPTIONS),
            writer.deflated(writer.literal(OPTIONS)),
            signed,
            uncompressed,
            share + writer.literal(OPTIONS),
            writer.literal(OPTIONS) + good,
            share + writer.literal(OPTIONS) + data,
        ],
        "its encrypted data has no integrity protection": [
            writer.message(writer.literal(OPTIONS), *rsa_public, protected=False)
        ],
        "its encrypted data is in GnuPG's own form": [share + writer.packet(20, b"\1\x09\2\x10" + bytes(80))],
        "its encrypted data is of version 2 (RFC 9580, AEAD)": [share + writer.packet(18, b"\2\x09\2\6" + bytes(80))],
        "its encrypted data is of no known version": [share + writer.packet(18, body) for body in (b"", b"\0", b"\3")],
        "it is not encrypted to any public key": [data, symmetric, writer.packet(1, b"\2" + bytes(20)) + data],
        "it is empty": [b""],
        "a packet of type 1 is out of place": [share],
        "a packet of type 18 is out of place": [share + data + data, good + writer.literal(OPTIONS)],
        "a packet of type 6 is out of place": [home.public("rsa@example.com")],
        "it has more than 64 recipients": [share * 65 + data],
        "there is something that is no packet": [b"-----BEGIN PGP MESSAGE-----\n", good + b"\n"],
        "it ends too early": [good[:-1], share + b"\xd2\xe0", writer.packet(1, b"\3") + data],
    }
    for reason, messages in bad.items():
        for message in messages:
            with pytest.raises(WrappedKeyError) as error:
                unwrap(message, rsa_secret)
            assert str(error.value).startswith(f"it is not an acceptable OpenPGP message: {reason}"), reason
    with pytest.raises(WrappedKeyError, match=f"it is longer than {limits.PGP_BYTES} bytes"):
        unwrap(bytes(limits.PGP_BYTES + 1), rsa_secret)


def test_mutated_messages(home: GnupgHome, rsa_secret: KeyMaterial) -> None:
    """10,000 of them: refused or not opened, never anything else; nor does what cannot be named by a key ID matter."""
    materials = [secret(home, "cv-open"), rsa_secret]
    seeds = [home.encrypt(OPTIONS, "cv-open@example.com", "--throw-keyids"), home.encrypt(OPTIONS, "rsa@example.com")]
    dice = random.Random(3)
    outcomes = {"opened": 0, "refused": 0, "not opened": 0}
    for number in range(10_000):
        try:
            plaintext = unwrap(mutated(seeds[number % 2], dice), *materials).plaintext
        except WrappedKeyError:
            outcomes["refused"] += 1
        else:
            assert plaintext in (None, OPTIONS)
            outcomes["not opened" if plaintext is None else "opened"] += 1
    assert outcomes["refused"] > 1000
    assert outcomes["not opened"] > 1000


def test_mutated_keys(home: GnupgHome) -> None:
    source = secret(home, "cv-open")
    wrapped = home.encrypt(OPTIONS, "cv-open@example.com")
    armoured = secret(home, "cv-open", "--armor").data
    dice = random.Random(4)
    for number in range(1000):
        data = mutated(armoured if number % 2 else source.data, dice)
        opened, refusals = unwrap(wrapped, source._replace(data=data))
        assert opened == OPTIONS or refusals


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
