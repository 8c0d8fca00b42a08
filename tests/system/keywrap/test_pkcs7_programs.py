"""PKCS#7 with openssl, skopeo and the reference program."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from decoder.formats import wire
from decoder.keys.keyring import DecryptConfig, Keyring
from decoder.keywrap import pkcs7
from decoder.keywrap.pkcs7 import cms
from decoder.layer import annotations as layer
from tests.support.image import images
from tests.support.keywrap import layers
from tests.support.keywrap import pkcs7_writer as writer
from tests.support.keywrap.layers import ec_key, pem
from tests.support.keywrap.pkcs7_parts import (
    NO_KEY,
    OPTIONS,
    Somebody,
    assert_opens,
    assert_refused,
    somebody,
    unwrap,
)
from tests.support.program.processes import PROGRAM, REFERENCE, payload_bytes, run_decoder

LONG_OPTIONS = layers.private_options(digest="sha256:" + "0" * 20_000)


CIPHERS = ["", "-aes-128-cbc", "-aes-192-cbc", "-aes-256-cbc", "-aes-128-gcm", "-aes-192-gcm", "-aes-256-gcm"]


FORMS = ["-outform DER", "-outform PEM", "-outform DER -stream", "-outform PEM -stream", "-outform DER -indef -keyid"]


HASHES = ["sha1", "sha224", "sha256", "sha384", "sha512"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cipher", CIPHERS)
def test_opens_what_openssl_writes(cipher: str, form: str, tmp_path: Path) -> None:
    who = somebody()
    arguments = ["-encrypt", *cipher.split(), *form.split(), "certificate.der"]
    for options in (OPTIONS, LONG_OPTIONS):
        wrapped = writer.openssl_cms(tmp_path, options, *arguments, certificate=who.certificate)
        assert wrapped.startswith(b"-----BEGIN CMS-----" if "PEM" in form else b"\x30")
        assert_opens(wrapped, who, options)
        if "PEM" in form:
            assert_opens(wrapped.replace(b" CMS-", b" PKCS7-").replace(b"\n", b"\r\n"), who, options)


@pytest.mark.parametrize("mask_hash", ["", *HASHES])
@pytest.mark.parametrize("oaep_hash", ["", *HASHES])
def test_opens_oaep(oaep_hash: str, mask_hash: str, tmp_path: Path) -> None:
    who = somebody()
    choices = ["rsa_padding_mode:oaep", "rsa_oaep_label:6c6162656c" if mask_hash else ""]
    choices += [f"rsa_oaep_md:{oaep_hash}" if oaep_hash else "", f"rsa_mgf1_md:{mask_hash}" if mask_hash else ""]
    arguments = ["-encrypt", "-outform", "DER", "-aes-256-gcm", "-recip", "certificate.der"]
    arguments += [part for choice in choices if choice for part in ("-keyopt", choice)]
    wrapped = writer.openssl_cms(tmp_path, OPTIONS, *arguments, certificate=who.certificate)
    assert cms.parse_envelope(wrapped).recipients[0].algorithm.oid == pkcs7._RSAES_OAEP
    assert_opens(wrapped, who)


def test_opens_single_des_as_the_reference_does(tmp_path: Path) -> None:
    who = somebody()
    legacy = ["-encrypt", "-outform", "DER", "-des-cbc", "-provider", "legacy", "-provider", "default"]
    wrapped = writer.openssl_cms(tmp_path, OPTIONS, *legacy, "certificate.der", certificate=who.certificate)
    assert_opens(wrapped, who)
    image_layer = layers.encrypted(b"plain", {"pkcs7": [wrapped]})
    keys = {"privkeys": [pem(who.key)], "privkeys-passwords": [b""], "x509s": [who.certificate]}
    for program in (PROGRAM, REFERENCE):
        result = run_decoder(payload_bytes(image_layer.descriptor, keys), image_layer.ciphertext, program=program)
        assert (result.status, result.plaintext) == (0, b"plain"), result.errors


@pytest.mark.parametrize("keyid", [(), ("-keyid",)])
def test_each_of_several_recipients_opens(keyid: tuple[str, ...], tmp_path: Path) -> None:
    people = [somebody(), somebody("second"), somebody("third", 3072), Somebody("on a curve", ec_key())]
    certificates = {f"certificate{number}": who.certificate for number, who in enumerate(people)}
    names = [f"{name}.der" for name in certificates]
    wrapped = writer.openssl_cms(tmp_path, OPTIONS, "-encrypt", "-outform", "DER", *keyid, *names, **certificates)
    everybody = tuple(certificates.values())
    for who in people[:3]:
        assert_opens(wrapped, who)
        opened, told = unwrap(wrapped, who.key, certificates=everybody)
        assert opened == OPTIONS
        assert sum(NO_KEY in reason for reason in told) == 2
    assert unwrap(wrapped, ec_key()) == (None, ["key0: it is not an RSA key, which PKCS#7 requires"])


def small_image(directory: Path) -> images.Layout:
    return images.write_layers(directory, [images.Layer(images.tar_of({"file": b"content"}), images.TAR)])


def skopeo(*arguments: str) -> None:
    subprocess.run(["skopeo", "copy", "--insecure-policy", "--quiet", *arguments], check=True, timeout=60)


def test_opens_what_skopeo_writes(tmp_path: Path) -> None:
    people = [somebody(), somebody("second")]
    plain = small_image(tmp_path / "plain")
    options = []
    for who in people:
        (tmp_path / who.name).write_bytes(who.certificate)
        options += ["--encryption-key", f"pkcs7:{tmp_path / who.name}"]
    skopeo(*options, f"oci:{plain.directory}", f"oci:{tmp_path / 'encrypted'}:{images.NAME}")
    encrypted = images.Layout(tmp_path / "encrypted")
    (descriptor,) = encrypted.layers
    (wrapped,) = descriptor["annotations"][layer.KEYS_PREFIX + "pkcs7"].split(",")
    digest = images.digest_of(plain.read(plain.layers[0]))
    for who in people:
        opened, told = unwrap(wire.decode_base64(wrapped), who.key, certificates=(who.certificate,))
        assert opened is not None
        assert layer.parse_private_options(opened).digest == digest
        assert told == []
        assert_opens(wire.decode_base64(wrapped), who, opened)


def test_the_reference_and_we_open_what_we_wrap() -> None:
    people = [somebody(), somebody("second"), somebody("third", 3072)]
    wrapped = pkcs7.wrap(OPTIONS, [people[0].certificate, people[1].der, people[2].certificate])
    encrypted = layers.encrypted(b"the plain layer" * 2000, {"pkcs7": [wrapped]})
    for who in people:
        assert_opens(wrapped, who)
        parameters = {"privkeys": [pem(who.key)], "privkeys-passwords": [b""], "x509s": [who.certificate]}
        payload = payload_bytes(encrypted.descriptor, parameters)
        result = run_decoder(payload, encrypted.ciphertext, program=REFERENCE)
        assert (result.status, result.plaintext) == (0, encrypted.plaintext), result.errors


@pytest.mark.parametrize("more", [b"\n", b"\0\0", b"junk"])
def test_the_reference_and_we_ignore_what_follows(more: bytes) -> None:
    who = somebody()
    wrapped = pkcs7.wrap(OPTIONS, [who.certificate]) + more
    encrypted = layers.encrypted(b"the plain layer", {"pkcs7": [wrapped]})
    parameters = {"privkeys": [pem(who.key)], "privkeys-passwords": [b""], "x509s": [who.certificate]}
    assert_opens(wrapped, who)
    result = run_decoder(payload_bytes(encrypted.descriptor, parameters), encrypted.ciphertext, program=REFERENCE)
    assert (result.status, result.plaintext) == (0, encrypted.plaintext), result.errors


def test_skopeo_opens_what_we_wrap(tmp_path: Path) -> None:
    who = somebody()
    plain = small_image(tmp_path / "image")
    tar = plain.read(plain.layers[0])
    options = layers.private_options(digest=images.digest_of(tar))
    encrypted = layers.encrypted(tar, {"pkcs7": [pkcs7.wrap(options, [who.certificate])]})
    descriptor = {**encrypted.descriptor, **plain.add(encrypted.ciphertext, f"{images.TAR}+encrypted")}
    plain.write_manifest(plain.read_json(plain.manifest["config"]), [descriptor])
    (tmp_path / "key").write_bytes(pem(who.key))
    (tmp_path / "certificate").write_bytes(who.certificate)
    decryption = ["--decryption-key", f"{tmp_path / 'key'}", "--decryption-key", f"{tmp_path / 'certificate'}"]
    skopeo(*decryption, f"oci:{plain.directory}", f"oci:{tmp_path / 'decrypted'}:{images.NAME}")
    decrypted = images.Layout(tmp_path / "decrypted")
    assert decrypted.read(decrypted.layers[0]) == tar


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("-encrypt -rc2-cbc -provider legacy -provider default certificate.der", "1.2.840.113549.3.2 is not accepted"),
        ("-encrypt -aes256 -secretkey 00112233445566778899aabbccddeeff -secretkeyid 01", "no recipient with an RSA"),
        ("-encrypt -aes256 -pwri_password secret", "no recipient with an RSA"),
        ("-encrypt -aes256 curve.der", "no recipient with an RSA"),
        ("-data_create", "1.2.840.113549.1.7.1, which is not"),
        ("-digest_create", "1.2.840.113549.1.7.5, which is not"),
    ],
)
def test_refuses_what_else_openssl_writes(arguments: str, reason: str, tmp_path: Path) -> None:
    files = {"certificate": somebody().certificate, "curve": Somebody("on a curve", ec_key()).certificate}
    assert_refused(writer.openssl_cms(tmp_path, OPTIONS, "-outform", "DER", *arguments.split(), **files), reason)


def test_a_pkcs12_file_opens_what_is_wrapped_to_its_certificate(tmp_path: Path) -> None:
    """Key and certificate come in one file, with the password of the payload."""
    sh = ["/bin/sh", "-ec"]
    make = (
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout key -subj /CN=p12 -days 2 -out cert.pem;"
        "openssl pkcs12 -export -inkey key -in cert.pem -passout pass:secret -out both.p12"
    )
    subprocess.run([*sh, make], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    wrapped = pkcs7.wrap(OPTIONS, [(tmp_path / "cert.pem").read_bytes()])
    keys = Keyring()
    keys.add("both.p12", (tmp_path / "both.p12").read_bytes(), b"secret")
    assert pkcs7.unwrap(wrapped, DecryptConfig(keys), lambda _key, _reason: None) == OPTIONS
