"""PGP messages that gpg writes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from decoder.errors import KeyFileError, WrappedKeyError
from decoder.keys.file import KeyMaterial
from decoder.keywrap import pgp
from decoder.keywrap.pgp.keyring import select
from decoder.keywrap.pgp.message import parse_message
from decoder.keywrap.pgp.secretkey import find_secret_keys
from tests.support.keywrap import pgp_writer as writer
from tests.support.keywrap.pgp_parts import OPTIONS, PASSPHRASE, secret, unwrap

if TYPE_CHECKING:
    from tests.support.keys.pgp_home import GnupgHome

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
