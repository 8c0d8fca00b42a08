"""PGP messages and keys that are refused."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from decoder import limits
from decoder.errors import WrappedKeyError
from decoder.keys.file import KeyMaterial
from decoder.keywrap.pgp import packets
from decoder.keywrap.pgp.secretkey import find_secret_keys
from tests.support.keywrap import pgp_writer as writer
from tests.support.keywrap.pgp_parts import OPTIONS, mutated, secret, unwrap

if TYPE_CHECKING:
    from tests.support.keys.pgp_home import GnupgHome


@pytest.fixture(scope="module")
def rsa_public(rsa_secret: KeyMaterial) -> tuple[rsa.RSAPublicKey, bytes]:
    """The encryption subkey of `rsa_secret` and its key ID."""
    key = find_secret_keys(rsa_secret)[0]
    modulus, exponent = map(int.from_bytes, key.numbers)
    return rsa.RSAPublicNumbers(exponent, modulus).public_key(), key.key_id


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it holds no OpenPGP secret key"),
        (b"no key", "it is not an OpenPGP key: it holds something other than packets"),
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
    for message in (good, good + data, good + writer.literal(OPTIONS), good + b"\n"):  # what follows it is ignored
        assert unwrap(message, rsa_secret) == (OPTIONS, [])
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
        "its encrypted data has an unknown version": [share + writer.packet(18, body) for body in (b"", b"\0", b"\3")],
        "it is not encrypted to any public key": [data, symmetric, writer.packet(1, b"\2" + bytes(20)) + data],
        "it is empty": [b""],
        "a packet of type 1 is out of place": [share],
        "a packet of type 6 is out of place": [home.public("rsa@example.com")],
        "it has more than 64 recipients": [share * 65 + data],
        "it holds something other than packets": [b"-----BEGIN PGP MESSAGE-----\n"],
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
