"""OpenPGP with keys and messages that are in files or made here."""

from __future__ import annotations

import bz2
import json
import random
import time
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pysequoia
import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa

from decoder import limits
from decoder.errors import KeyFileError, WrappedKeyError
from decoder.formats import wire
from decoder.keys.file import KeyMaterial
from decoder.keywrap import pgp
from decoder.keywrap.pgp import keyring as keyrings
from decoder.keywrap.pgp import packets
from decoder.keywrap.pgp.algorithms import decrypt_cfb
from decoder.keywrap.pgp.gnupg import gnupg_keyring
from decoder.keywrap.pgp.keyring import select
from decoder.keywrap.pgp.recipient import check_message, key_kinds
from decoder.keywrap.pgp.secretkey import find_secret_keys, unlock
from tests.support.keywrap import pgp_writer as writer
from tests.support.keywrap.pgp_parts import ANNOTATION, OPTIONS, mutated, unwrap
from tests.support.program.processes import ROOT

VECTORS = ROOT / "tests/vectors"


CASES: list[dict[str, Any]] = [
    case
    for case in json.loads((VECTORS / "cases.json").read_text())
    if ANNOTATION in case["descriptor"]["annotations"] and (case["gpg_privatekeys"] or "pgp" in case["name"])
]


def generated(profile: pysequoia.Profile = pysequoia.Profile.RFC4880) -> pysequoia.Tsk:
    return pysequoia.Tsk.generate("Somebody <somebody@example.com>", profile=profile)


def nested(times: int) -> bytes:
    content = writer.literal(OPTIONS)
    for _ in range(times):
        content = writer.deflated(content)
    return content


@pytest.fixture(scope="module")
def rsa_secret() -> KeyMaterial:
    return KeyMaterial("pgp-rsa.gpg", (VECTORS / "keys/pgp-rsa.gpg").read_bytes(), b"")


@pytest.fixture(scope="module")
def rsa_public(rsa_secret: KeyMaterial) -> tuple[rsa.RSAPublicKey, bytes]:
    """The encryption subkey of `rsa_secret` and its key ID."""
    key = find_secret_keys(rsa_secret)[0]
    modulus, exponent = map(int.from_bytes, key.numbers)
    return rsa.RSAPublicNumbers(exponent, modulus).public_key(), key.key_id


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_vector(case: dict[str, Any]) -> None:
    names = case["gpg_privatekeys"] or case["keydir"]
    passwords = [*case["gpg_passwords"], *[""] * len(names)]
    materials = [
        KeyMaterial(name, (VECTORS / "keys" / name).read_bytes(), password.encode())
        for name, password in zip(names, passwords, strict=False)
    ]
    wrapped = wire.decode_base64(case["descriptor"]["annotations"][ANNOTATION])
    opened, refusals = unwrap(wrapped, *materials)
    if case["expect"] == "ok":
        assert opened is not None
        assert len(wire.bytes_value(json.loads(opened)["symkey"])) == limits.SYMMETRIC_KEY_BYTES
    else:
        assert opened is None
        assert refusals == [
            "pgp-pass.gpg (RSA 2048, key ID F43F2FE3825CC7CA): "
            "it is protected by a passphrase, and the one that was given is wrong"
        ]


def test_opens_session_keys_with_leading_zero_bits(
    rsa_secret: KeyMaterial, rsa_public: tuple[rsa.RSAPublicKey, bytes]
) -> None:
    """The reference and skopeo count them in the length, and the library by itself refuses that."""
    leading = set()
    for _ in range(12):
        wrapped = writer.message(writer.literal(OPTIONS), *rsa_public)
        leading.add(next(packets.split(wrapped, 2)).body[12] >= 0x80)
        assert unwrap(wrapped, rsa_secret) == (OPTIONS, [])
    assert False in leading


def test_refuses_damaged_content(rsa_secret: KeyMaterial, rsa_public: tuple[rsa.RSAPublicKey, bytes]) -> None:
    """The modification detection code and the RSA padding fail alike."""
    good = writer.message(writer.literal(OPTIONS), *rsa_public)
    for at in (40, len(good) - 300, len(good) - 100, len(good) - 1):
        damaged = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
        opened, refusals = unwrap(damaged, rsa_secret)
        assert opened is None
        assert [refusal.rpartition(": ")[2] for refusal in refusals] == ["it does not open this wrapped key"]


def test_opens_the_share_of_its_own_key_alone(
    rsa_secret: KeyMaterial, rsa_public: tuple[rsa.RSAPublicKey, bytes]
) -> None:
    of_another = writer.session_key_packet(rsa_public[0], b"12345678", bytes(32))
    message = of_another + writer.message(writer.literal(OPTIONS), *rsa_public)
    assert unwrap(message, rsa_secret) == (OPTIONS, [])
    assert [name.text for name in pgp.recipients(pgp.keep(message, [1]), {})] == [rsa_public[1].hex().upper()]


def test_a_session_key_with_a_wrong_checksum_does_not_open(
    rsa_secret: KeyMaterial, rsa_public: tuple[rsa.RSAPublicKey, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "sum", lambda _data: 7, raising=False)
    opened, (refusal,) = unwrap(writer.message(writer.literal(OPTIONS), *rsa_public), rsa_secret)
    assert opened is None
    assert refusal.endswith(": it does not open this wrapped key")


P256, UNKNOWN = bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("2b8104007f")
KDF = bytes([3, 1, 8, 9])  # SHA-256 and AES-256 (RFC 9580 §11.3)


@pytest.mark.parametrize(
    ("curve", "kdf", "kind"),
    [
        (P256, bytes([3, 1, 1, 9]), "ECDH secp256r1"),  # MD5
        (P256, bytes([3, 1, 8, 1]), "ECDH secp256r1"),  # IDEA
        (P256, KDF, "ECDH secp256r1"),  # a point that is not on the curve
        (UNKNOWN, KDF, "ECDH of another curve"),
    ],
)
def test_ecdh_that_cannot_be_computed(curve: bytes, kdf: bytes, kind: str) -> None:
    """RFC 9580 §5.5.5.6, §5.1.5, §11.4: the key and the share of the session key are malformed or of unknown kinds."""
    point = writer.mpi(int.from_bytes(b"\4" + bytes(range(64))))
    scalar = writer.mpi(7)
    public = bytes([4, 0, 0, 0, 0, 18, len(curve)]) + curve + point + kdf
    checked = scalar + (sum(scalar) & 0xFFFF).to_bytes(2)
    material = KeyMaterial("k", writer.packet(7, public + b"\0" + checked), b"")
    (key,) = find_secret_keys(material)
    share = writer.packet(1, b"\3" + key.key_id + bytes([18]) + point + bytes([40]) + bytes(40))
    opened, refusals = unwrap(share + writer.packet(18, b"\1" + bytes(50)), material)
    assert opened is None
    assert refusals == [f"k ({kind}, key ID {key.key_id.hex().upper()}): it does not open this wrapped key"]


@pytest.mark.parametrize("more", [b"\n", b"\0", b"junk", writer.literal(b"x")])
def test_what_follows_the_encrypted_data_is_ignored(
    more: bytes, rsa_secret: KeyMaterial, rsa_public: tuple[rsa.RSAPublicKey, bytes]
) -> None:
    """The reference does not read on."""
    message = writer.message(writer.literal(OPTIONS), *rsa_public)
    assert unwrap(message + more, rsa_secret)[0] == OPTIONS
    assert pgp.recipients(message + more, {}) == pgp.recipients(message, {})
    assert pgp.keep(message + more, [0]) == message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            lambda: writer.literal(bytes(limits.PRIVATE_OPTIONS_BYTES + 1)),
            "it is cut short, or longer than 65536 bytes",
        ),
        (lambda: writer.deflated(writer.literal(bytes(70_000))), "it is cut short, or longer than 65536 bytes"),
        (lambda: writer.deflated(writer.literal(bytes(20 * limits.MIB))), "it is longer than 131072 bytes"),
        (
            lambda: writer.deflated(writer.deflated(writer.literal(bytes(20 * limits.MIB)))),
            "it is longer than 131072 bytes",
        ),
        (lambda: writer.packet(8, b"\3" + bz2.compress(bytes(20 * limits.MIB))), "it is longer than 131072 bytes"),
        (lambda: writer.deflated(writer.packet(10, b"PGP") * 1_000_000), "it is longer than 131072 bytes"),
        (
            lambda: writer.packet(8, b"\2" + zlib.compress(writer.literal(OPTIONS))[:-1]),
            "it is compressed, and cut short",
        ),
        (lambda: writer.packet(8, b"\2damaged"), "it is compressed, and damaged"),
        (lambda: writer.packet(8, b"\3damaged"), "it is compressed, and damaged"),
        (lambda: writer.packet(8, b"\4"), "it is compressed in an unknown way"),
        (lambda: writer.packet(8, b""), "it ends too early"),
        (lambda: nested(limits.PGP_NESTING + 1), "a packet of type 8 is out of place"),
        (lambda: b"", "it does not hold exactly one piece of literal data"),
        (lambda: writer.literal(OPTIONS) * 2, "it does not hold exactly one piece of literal data"),
        (lambda: writer.packet(11, b"b\4"), "it is cut short, or longer than 65536 bytes"),
        (lambda: writer.packet(18, b"\1"), "a packet of type 18 is out of place"),
        (lambda: b"\xc0\0" * 20_000, "it has more than 16384 packets"),
    ],
)
def test_refuses_content_before_memory_grows(
    content: Callable[[], bytes], reason: str, rsa_secret: KeyMaterial, rsa_public: tuple[rsa.RSAPublicKey, bytes]
) -> None:
    wrapped = writer.message(content(), *rsa_public)
    tracemalloc.start()
    try:
        with pytest.raises(WrappedKeyError) as error:
            unwrap(wrapped, rsa_secret)
        assert tracemalloc.get_traced_memory()[1] < 8 * limits.MIB
    finally:
        tracemalloc.stop()
    assert str(error.value) == f"it opens to something other than private options: {reason}"


def test_opens_nested_content(rsa_secret: KeyMaterial, rsa_public: tuple[rsa.RSAPublicKey, bytes]) -> None:
    for content in (nested(limits.PGP_NESTING), writer.packet(8, b"\0" + writer.literal(OPTIONS))):
        assert unwrap(writer.message(content, *rsa_public), rsa_secret) == (OPTIONS, [])


def test_mutated_content(rsa_secret: KeyMaterial, rsa_public: tuple[rsa.RSAPublicKey, bytes]) -> None:
    """What the writer of a message chooses, and encrypts well."""
    dice = random.Random(5)
    for number in range(1000):
        content = mutated(nested(number % 3), dice)
        with suppress(WrappedKeyError):
            assert unwrap(writer.message(content, *rsa_public), rsa_secret).plaintext is not None


@pytest.mark.parametrize("recipient", [b"", b"no key", b"\x99\x00\x01\x04"])
def test_wrap_refuses_what_is_no_certificate(recipient: bytes) -> None:
    with pytest.raises(KeyFileError, match="it is not an OpenPGP certificate"):
        pgp.wrap(OPTIONS, [recipient])


def test_wrap_refuses_a_revoked_certificate() -> None:
    key = generated()
    certificate = key.extract_certificate()
    revoked = bytes(certificate) + bytes(certificate.revoke(key.certifier()))
    with pytest.raises(KeyFileError, match="it has been revoked"):
        pgp.wrap(OPTIONS, [revoked])


def test_wrap_refuses_a_certificate_that_asks_for_version_6() -> None:
    """The reference reads no such message."""
    with pytest.raises(KeyFileError, match=r"would not be opened: .* version 2 \(RFC 9580, AEAD\)"):
        pgp.wrap(OPTIONS, [bytes(generated(pysequoia.Profile.RFC9580).extract_certificate())])


def test_what_was_wrapped_is_for_every_recipient(rsa_public: tuple[rsa.RSAPublicKey, bytes]) -> None:
    wrapped = writer.message(writer.literal(OPTIONS), *rsa_public)
    with pytest.raises(KeyFileError, match="its encryption key is of a type or curve that is not supported"):
        check_message(wrapped, [bytes(generated().extract_certificate())])


def test_the_kinds_of_keys_in_certificates() -> None:
    keys = [generated(profile) for profile in (pysequoia.Profile.RFC4880, pysequoia.Profile.RFC9580)]
    assert key_kinds([bytes(key.extract_certificate()) for key in keys]).endswith(", version 6")


@pytest.mark.parametrize("wanted", ["Élodie Ünal", "Élodie Ünal <É@example.com>", "é@EXAMPLE.com"])
def test_select_by_letters_outside_ascii(wanted: str) -> None:
    key = pysequoia.Tsk.generate("Élodie Ünal <É@example.com>", profile=pysequoia.Profile.RFC4880)
    certificate = bytes(key.extract_certificate())
    assert select(certificate, wanted) == certificate


def test_select_refuses_several() -> None:
    keys = [generated().extract_certificate() for _ in range(2)]
    keyring = b"".join(map(bytes, keys))
    with pytest.raises(KeyFileError, match=keys[1].fingerprint.upper()):
        select(keyring, "somebody@example.com")
    assert select(keyring, keys[1].fingerprint) == bytes(keys[1])
    assert select(keyring + bytes(keys[1]), keys[1].fingerprint) == bytes(keys[1])


def test_select_passes_over_revoked_certificates() -> None:
    key, old = generated(), generated()
    certificate = old.extract_certificate()
    revoked = bytes(certificate) + bytes(certificate.revoke(old.certifier()))
    good = bytes(key.extract_certificate())
    assert select(revoked + good, "somebody@example.com") == good
    with pytest.raises(KeyFileError, match="it has been revoked"):
        select(revoked + good, certificate.fingerprint)


def test_select_believes_no_user_id_without_signature() -> None:
    good = bytes(generated().extract_certificate())
    forged = good + writer.packet(13, b"Boss <boss@example.com>")
    with pytest.raises(KeyFileError, match="the keyring holds no OpenPGP certificate for"):
        select(forged, "boss@example.com")


def test_select_refuses_what_is_no_keyring() -> None:
    for keyring in (b"no keyring", b"\x99\xff", writer.packet(6, bytes(0x10000))):
        with pytest.raises(KeyFileError, match="it is not an OpenPGP keyring"):
            select(keyring, "somebody@example.com")
    assert not list(keyrings.certificates(bytes(generated())))
    with pytest.raises(KeyFileError, match="the keyring is larger than"):
        select(bytes(limits.PGP_KEYRING_BYTES + 1), "somebody@example.com")


def test_select_from_many_blocks_of_armour() -> None:
    """Work in proportion to the size: it once grew with its square, to 4 s and more here."""
    block = b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n" + b"z0AA" * 22 + b"\n-----END PGP PUBLIC KEY BLOCK-----\n"
    started = time.process_time()
    assert len(packets.dearmoured(block * 40_000)) == 40_000 * 66
    assert time.process_time() - started < 1


def test_a_gpg_that_fails_names_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "gpg"
    program.write_text("#!/bin/sh\nexit 2\n")
    program.chmod(0o700)

    def failure(home: str | None) -> str:
        with pytest.raises(KeyFileError, match="--export fails with status 2") as caught:
            gnupg_keyring(home, str(program))
        return str(caught.value)

    assert f"its home directory is '{tmp_path}/absent', which is not a directory" in failure(f"{tmp_path}/absent")
    monkeypatch.setenv("GNUPGHOME", str(tmp_path))
    assert failure(None).endswith(f"its home directory is '{tmp_path}'")
    monkeypatch.delenv("GNUPGHOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert f"'{tmp_path}/.gnupg'" in failure(None)


@pytest.mark.parametrize(
    ("protection", "how"),
    [
        (b"\xfe\x0a\x03\x08", "Twofish"),
        (b"\xff\x0d\x00\x02", "Camellia-256"),
        (b"\xfe\x63\x03\x08", "the cipher number 99"),
        (b"\xfd\x09\x02\x04", "AEAD"),
        (b"\x07", "MD5 alone"),
        (b"\x01", "IDEA"),
        (b"\xfe\x09\x04\x08", "Argon2"),
        (b"\xfe\x09\x03\x01", "the key derivation 3 and the hash number 1"),
    ],
)
def test_what_protects_a_secret_key_is_named(protection: bytes, how: str, rsa_secret: KeyMaterial) -> None:
    """RFC 9580 §5.5.3: a right passphrase would not help."""
    key = find_secret_keys(rsa_secret._replace(password=b"right or wrong"))[0]
    key.secret = protection + bytes(64)
    with pytest.raises(KeyFileError, match=f"^its passphrase protects it with {how}, which is not supported$"):
        unlock(key)


def test_a_cipher_that_the_library_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSL without its older ciphers, as on machines with FIPS 140."""

    def refuse(*_: object) -> None:
        raise UnsupportedAlgorithm("not here")

    monkeypatch.setattr("cryptography.hazmat.primitives.ciphers.Cipher", refuse)
    with pytest.raises(ValueError, match=r"^the installed library does not have this cipher$"):
        decrypt_cfb(9, bytes(32), bytes(16), b"")
