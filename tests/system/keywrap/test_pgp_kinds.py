"""OpenPGP keys of other kinds, as gpg makes them: opened, refused as recipients, or named in the reason."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from decoder import keywrap
from decoder.errors import KeyFileError
from decoder.keys.file import KeyMaterial
from decoder.keys.keyring import DecryptConfig, Keyring
from decoder.keywrap import pgp
from decoder.keywrap.pgp.keyring import select
from decoder.keywrap.pgp.secretkey import find_secret_keys
from decoder.keywrap.recipient import RecipientRules
from tests.support.image.command import image
from tests.support.keys.pgp_home import GnupgHome

OPTIONS = b"private options"
WHO = "somebody@example.com"


@pytest.fixture
def home() -> Iterator[GnupgHome]:
    found = GnupgHome()
    yield found
    found.close()


def make(home: GnupgHome, primary: str, subkey: str, *options: str, expires: str = "never") -> str:
    options = ("--passphrase=", *options)
    home.run(*options, "--quick-gen-key", WHO, primary, "cert,sign", expires)
    fingerprint = home.fingerprints(WHO)[0]
    home.run(*options, "--quick-add-key", fingerprint, subkey, "encr", expires)
    return fingerprint


def secret(home: GnupgHome) -> KeyMaterial:
    return KeyMaterial("secret.gpg", home.run("--passphrase=", "--export-secret-keys", WHO))


def opened(home: GnupgHome, wrapped: bytes) -> tuple[bytes | None, list[str]]:
    keyring, reasons = Keyring(), list[str]()
    keyring.pgp.append(secret(home))
    result = pgp.unwrap(wrapped, DecryptConfig(keyring), lambda key, why: reasons.append(f"{key.describe()}: {why}"))
    return result, reasons


@pytest.mark.parametrize("curve", ["brainpoolP256r1", "brainpoolP384r1", "brainpoolP512r1", "secp256k1", "nistp384"])
def test_every_curve_that_the_library_has(home: GnupgHome, curve: str) -> None:
    make(home, "nistp256", curve)
    assert opened(home, home.encrypt(OPTIONS, WHO)) == (OPTIONS, [])


def test_elgamal_is_named(home: GnupgHome) -> None:
    make(home, "dsa1024", "elg1024", "--allow-weak-key-signatures")
    with pytest.raises(KeyFileError) as caught:
        find_secret_keys(secret(home))
    assert str(caught.value) == "its keys are of the types DSA, Elgamal; RSA and ECDH keys of version 4 are supported"
    rules = RecipientRules(lambda: home.public(WHO))
    with pytest.raises(KeyFileError):
        keywrap.load("pgp").read_recipient(WHO, rules)


def test_small_keys_are_refused_as_recipients(home: GnupgHome) -> None:
    make(home, "rsa2048", "rsa1024")
    rules = RecipientRules(lambda: home.public(WHO))
    with pytest.raises(KeyFileError, match=r"RSA key has 1024 bits|no key that encryption is allowed with"):
        keywrap.load("pgp").read_recipient(WHO, rules)


@pytest.mark.parametrize("wanted", [WHO, "SOMEBODY@example.com"])
def test_an_expired_certificate_is_said_to_be(home: GnupgHome, wanted: str) -> None:
    fingerprint = make(home, "ed25519", "cv25519", "--faked-system-time=20200101T000000!", expires="1y")
    for name in (wanted, fingerprint, fingerprint[-16:]):
        with pytest.raises(KeyFileError) as caught:
            select(home.public(WHO), name)
        assert f"{fingerprint} for {name!r} is not usable: it expired on 2020-12-31" in str(caught.value)
    with pytest.raises(KeyFileError, match=r"holds no OpenPGP certificate for 'nobody@example.com'"):
        select(home.public(WHO), "nobody@example.com")


@pytest.mark.parametrize("wanted", [WHO, "SOMEBODY@example.com"])
def test_a_revoked_certificate_is_said_to_be(home: GnupgHome, wanted: str) -> None:
    """What was wrapped to it before still opens."""
    fingerprint = make(home, "ed25519", "cv25519")
    wrapped = home.encrypt(OPTIONS, WHO)
    home.revoke(fingerprint)
    for name in (wanted, fingerprint, fingerprint[-16:]):
        ended = image("encrypt", "oci:nowhere", "oci:target", "--recipient", f"pgp:{name}", "--gpg-homedir", home.path)
        assert ended.status == 2
        assert f"{fingerprint} for {name!r} is not usable: it has been revoked" in ended.errors
    assert opened(home, wrapped) == (OPTIONS, [])


def test_secret_keys_where_public_ones_belong(home: GnupgHome) -> None:
    make(home, "ed25519", "cv25519")
    with pytest.raises(KeyFileError, match=r"no OpenPGP certificate for .*; it holds secret keys, give it public ones"):
        select(secret(home).data, WHO)
    assert select(secret(home).data + home.public(WHO), WHO) == home.public(WHO)


def test_curves_that_the_library_lacks_are_named(home: GnupgHome) -> None:
    make(home, "nistp256", "brainpoolP256r1")
    with pytest.raises(KeyFileError, match="its keys are of the types ECDSA, ECDH brainpoolP256r1"):
        keywrap.load("pgp").read_recipient(WHO, RecipientRules(lambda: home.public(WHO)))


def test_what_is_wrapped_to_a_good_certificate_opens(home: GnupgHome) -> None:
    make(home, "rsa3072", "rsa3072")
    rules = RecipientRules(lambda: home.public(WHO))
    wrapped = pgp.wrap(OPTIONS, keywrap.load("pgp").read_recipient(WHO, rules))
    assert opened(home, wrapped) == (OPTIONS, [])


@pytest.mark.parametrize("form", ["rest", "public first", "CRLF", "indented", "line break"])
def test_files_that_people_have(home: GnupgHome, form: str) -> None:
    """Secret keys with what editors, mail and scripts do to them."""
    make(home, "rsa2048", "rsa2048")
    binary, armoured = secret(home).data, home.run("--passphrase=", "--armor", "--export-secret-keys", WHO)
    data = {
        "rest": armoured.replace(b"\n", b" \t\n"),
        "public first": home.run("--export", WHO) + binary,
        "CRLF": armoured.replace(b"\n", b"\r\n"),
        "indented": armoured.replace(b"\n", b"\n    "),
        "line break": binary + b"\r\n",
    }[form]
    ring = Keyring()
    ring.add("somebody", data)
    wrapped = pgp.wrap(OPTIONS, [select(home.public(WHO), WHO)])
    assert pgp.unwrap(wrapped, DecryptConfig(ring), lambda *why: None) == OPTIONS
