"""PKCS#7: what is written, and which key is tried."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from decoder import limits
from decoder.errors import KeyFileError, WrappedKeyError
from decoder.formats import wire
from decoder.keys.keyring import DecryptConfig
from decoder.keys.privatekey import PrivateKey
from decoder.keywrap import pkcs7
from decoder.keywrap.pkcs7 import cms
from decoder.keywrap.pkcs7.naming import subjects_of
from decoder.layer import annotations as layer
from tests.support.keywrap import pkcs7_writer as writer
from tests.support.keywrap.layers import ec_key, pem, rsa_key
from tests.support.keywrap.pkcs7_parts import (
    NO_KEY,
    OPTIONS,
    Somebody,
    assert_opens,
    keys_of,
    somebody,
    unwrap,
)
from tests.support.keywrap.pkcs7_recipients import DOES_NOT_OPEN
from tests.support.keywrap.pkcs7_writer import algorithm, der
from tests.support.program.processes import ROOT

VECTORS = ROOT / "tests/vectors"
CASES: list[dict[str, Any]] = [
    case
    for case in json.loads((VECTORS / "cases.json").read_text())
    if layer.KEYS_PREFIX + "pkcs7" in case["descriptor"]["annotations"]
]
CANNOT_FIT = "it is not a recipient's key: the certificates or its size differ"
NO_RECIPIENT = "it is not the certificate of any recipient"


# What others write.


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_opens_what_the_reference_wrote(case: dict[str, Any]) -> None:
    names = case["x509s"], case["privkeys"]
    if case["name"] in ("pkcs7-keydir", "multi-jwe-first", "multi-pgp-only"):
        names = ["cert1.pem"], ["rsa2048-pkcs8.pem"]
    certificates, private = ([(VECTORS / "keys" / name).read_bytes() for name in kind] for kind in names)
    keys = keys_of(certificates=tuple(certificates))
    keys.private += [PrivateKey("key", "pem", data, b"") for data in private]
    (wrapped,) = case["descriptor"]["annotations"][layer.KEYS_PREFIX + "pkcs7"].split(",")
    told: list[str] = []
    opened = pkcs7.unwrap(wire.decode_base64(wrapped), DecryptConfig(keys), lambda _key, reason: told.append(reason))
    if case["expect"] == "ok":
        assert isinstance(opened, bytes)
        assert layer.parse_private_options(opened).digest == "sha256:" + case["plain_sha256"]
        assert told == []
    else:
        assert opened is None
        assert told == [NO_RECIPIENT, DOES_NOT_OPEN]


# What others read of ours.


def test_wraps_byte_for_byte_as_the_reference() -> None:
    """All but the encrypted key, the nonce and the content is the same."""
    (case,) = [case for case in CASES if case["name"] == "pkcs7-gcm"]
    theirs = wire.decode_base64(case["descriptor"]["annotations"][layer.KEYS_PREFIX + "pkcs7"])
    ours = pkcs7.wrap(OPTIONS, [(VECTORS / "keys/cert1.pem").read_bytes()])

    def without_the_random_parts(wrapped: bytes) -> bytes:
        envelope = cms.parse_envelope(wrapped)
        assert envelope.algorithm.parameters is not None
        nonce = envelope.algorithm.parameters.value[4:16]
        for part in (envelope.recipients[0].encrypted_key, nonce, envelope.ciphertext):
            assert wrapped.count(part) == 1
            wrapped = wrapped.replace(part, bytes(len(part)))
        return wrapped

    assert without_the_random_parts(ours) == without_the_random_parts(theirs)


@pytest.mark.parametrize("options", [b"", b"x", b"x" * 100, b"x" * 127, b"x" * 128, b"x" * 255, b"x" * 65_536])
def test_wraps_options_of_any_length(options: bytes) -> None:
    assert_opens(pkcs7.wrap(options, [somebody().der]), somebody(), options)


def test_wrap_refuses_what_is_no_certificate() -> None:
    public = rsa_key().public_key()
    certificate = somebody().der
    problems = {
        b"": "not a certificate",
        b"no certificate": "not a certificate",
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo): "not only a public key",
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo): "not only a public key",
        public.public_bytes(Encoding.DER, PublicFormat.PKCS1): "not only a public key",
        pem(rsa_key()): "not a certificate",
        certificate[:-1]: "cut short",
        b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n": "not base64",
        Somebody("on a curve", ec_key()).der: "not a usable RSA key",
        b"\x30" * (limits.CERTIFICATE_BYTES + 1): "longer than",
    }
    for data, problem in problems.items():
        with pytest.raises(KeyFileError, match=problem):
            pkcs7.wrap(OPTIONS, [somebody().certificate, data])


def certificate_with(modulus: bytes, exponent: bytes) -> bytes:
    numbers = b"\0" + der(0x30, der(0x02, modulus), der(0x02, exponent))
    public = der(0x30, algorithm(writer.RSA_ENCRYPTION, writer.NULL), der(0x03, numbers))
    return der(0x30, der(0x30, der(0x02, b"\1"), *[der(0x30)] * 4, public))


def test_wrap_refuses_weak_keys() -> None:
    modulus = b"\x7f" + b"\xff" * (limits.WEAK_RSA_BITS // 8 - 1)
    with pytest.raises(
        KeyFileError, match=f"^it is a certificate, but its RSA key has less than {limits.WEAK_RSA_BITS} bits$"
    ):
        pkcs7.wrap(OPTIONS, [certificate_with(modulus, b"\3")])


def test_keeps_some_recipients() -> None:
    names = ("first", "second", "third")
    wrapped = pkcs7.wrap(OPTIONS, [somebody(name).der for name in names])
    found = [name.text for name in pkcs7.recipients(wrapped, {})]
    assert sorted(found) == [f"issuer CN={name} serial 7" for name in names]
    left = pkcs7.keep(wrapped, [0, 2])
    assert [name.text for name in pkcs7.recipients(left, {})] == [found[0], found[2]]
    for name in names:
        assert (unwrap(left, somebody(name).key)[0] == OPTIONS) == (f"issuer CN={name} serial 7" != found[1])


def test_keeps_recipients_only_in_the_form_of_the_reference() -> None:
    parts = writer.gcm_parts(somebody().key, OPTIONS)
    for form in (parts, writer.cbc_parts(somebody().key, bytes(16))):  # with a MAC; with a key identifier
        with pytest.raises(WrappedKeyError, match=r"has other recipients, too, and its form cannot be rewritten$"):
            pkcs7.keep(writer.enveloped(form), [0])


def test_names_of_certificates_leave_out_what_is_malformed() -> None:
    data = (b"no certificate", somebody().certificate, somebody("second").der)
    assert set(subjects_of(data).values()) == {f"subject CN={name} serial 7" for name in ("first", "second")}
    assert subjects_of(data[:1]) == {}


@pytest.mark.parametrize("count", [0, limits.CMS_RECIPIENTS + 1])
def test_wraps_for_no_more_recipients_than_open(count: int) -> None:
    with pytest.raises(KeyFileError, match="1 to 64 recipients"):
        pkcs7.wrap(OPTIONS, [somebody().der] * count)
    assert_opens(pkcs7.wrap(OPTIONS, [somebody().der] * limits.CMS_RECIPIENTS), somebody())


@pytest.mark.parametrize("fault", ["one less", "cut", "another algorithm", "too long"])
def test_what_was_wrapped_is_read_again(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults of the writer that no recipient could survive do not leave."""
    build = cms.build_envelope

    def faulty(recipients: list[cms.Recipient], algorithm: cms.Algorithm, ciphertext: bytes) -> bytes:
        first, *others = recipients
        changed = {
            "one less": others,
            "cut": [first._replace(encrypted_key=first.encrypted_key[:-1]), *others],
            "another algorithm": [first._replace(algorithm=cms.Algorithm(cms.DATA, None)), *others],
        }
        longer = bytes(limits.CMS_BYTES) if fault == "too long" else b""
        return build(changed.get(fault, recipients), algorithm, ciphertext + longer)

    monkeypatch.setattr(cms, "build_envelope", faulty)
    with pytest.raises(KeyFileError, match=r"could not open what was wrapped|could not be opened"):
        pkcs7.wrap(OPTIONS, [somebody().der, somebody("second").der])


def test_the_first_certificate_of_a_chain_is_the_recipient() -> None:
    chain = b"leaf, then issuer\n" + somebody().certificate + somebody("second").certificate
    assert_opens(pkcs7.wrap(OPTIONS, [chain]), somebody())
    assert unwrap(pkcs7.wrap(OPTIONS, [chain]), somebody("second").key)[0] is None


# Which key is tried.


def test_the_certificate_chooses_the_key() -> None:
    """A key that the certificate rules out is not tried, wherever it stands."""
    first, second = somebody(), somebody("second")
    wrapped = pkcs7.wrap(OPTIONS, [first.certificate])
    both = (second.certificate, first.certificate)
    opened, told = unwrap(wrapped, second.key, first.key, certificates=both)
    assert (opened, told) == (OPTIONS, [f"certificate0: {NO_RECIPIENT}"])
    assert unwrap(wrapped, second.key, certificates=(first.certificate,)) == (
        None,
        [f"certificate0: {NO_KEY}", f"key0: {CANNOT_FIT}"],
    )


def test_without_its_certificate_every_key_of_the_size_is_tried() -> None:
    first, second, third = somebody(), somebody("second"), somebody("third", 3072)
    wrapped = pkcs7.wrap(OPTIONS, [first.certificate])
    opened, told = unwrap(wrapped, ec_key(), third.key, second.key, first.key, certificates=(second.certificate,))
    assert opened == OPTIONS
    assert told == [
        f"certificate0: {NO_RECIPIENT}",
        "key0: it is not an RSA key, which PKCS#7 requires",
        f"key1: {CANNOT_FIT}",
        f"key2: {DOES_NOT_OPEN}",
    ]


def test_two_certificates_of_one_name_and_number() -> None:
    """Self-signed ones often have serial 1 for ever; then each one's key is tried."""
    old, new = (Somebody("same", somebody(name).key) for name in ("first", "second"))
    wrapped = pkcs7.wrap(OPTIONS, [new.certificate])
    certificates = (old.certificate, new.certificate)
    assert unwrap(wrapped, old.key, new.key, certificates=certificates) == (OPTIONS, [f"key0: {DOES_NOT_OPEN}"])


@pytest.mark.parametrize("data", [b"", b"x", b"\x30\x00", b"-----BEGIN PUBLIC KEY-----", somebody().der[:300]])
def test_a_malformed_certificate_hides_nothing(data: bytes) -> None:
    wrapped = pkcs7.wrap(OPTIONS, [somebody().certificate])
    opened, told = unwrap(wrapped, somebody().key, certificates=(data, somebody().certificate))
    assert opened == OPTIONS
    assert told[0].startswith("certificate0: it cannot be parsed as a certificate: ")


def test_says_that_there_is_no_private_key() -> None:
    with pytest.raises(WrappedKeyError, match="there is no private key to try"):
        unwrap(pkcs7.wrap(OPTIONS, [somebody().certificate]), certificates=(somebody().certificate,))


@pytest.mark.parametrize("extension", [b"", b"\x01\x01\xff", b"\x04\x00", b"\x04\x02\x04\x01", b"\x05\x00"])
def test_a_malformed_key_identifier_is_a_malformed_certificate(extension: bytes) -> None:
    extensions = der(0xA3, der(0x30, der(0x30, writer.oid("2.5.29.14"), extension)))
    names = [der(0x02, b"\1"), *[der(0x30)] * 5]
    with pytest.raises(ValueError, match="it "):
        cms.parse_certificate(der(0x30, der(0x30, *names, extensions)))


@pytest.mark.parametrize(
    ("modulus", "exponent"), [(b"", b"\3"), (b"\xff" * 256, b""), (b"\xfe" * 256, b"\3"), (b"\xff" * 60_000, b"\3")]
)
def test_wrap_refuses_unusable_rsa_keys(modulus: bytes, exponent: bytes) -> None:
    with pytest.raises(KeyFileError, match="not a usable RSA key"):
        pkcs7.wrap(OPTIONS, [certificate_with(modulus, exponent)])


def test_a_malformed_key_hides_nothing() -> None:
    keys = keys_of(somebody().key, certificates=(somebody().certificate,))
    keys.private.insert(0, PrivateKey("broken", "pem", b"-----BEGIN PRIVATE KEY-----", b""))
    told: list[str] = []
    wrapped = pkcs7.wrap(OPTIONS, [somebody().certificate])
    assert pkcs7.unwrap(wrapped, DecryptConfig(keys), lambda _key, reason: told.append(reason)) == OPTIONS
    wrapped = pkcs7.wrap(OPTIONS, [somebody("second").certificate])
    assert pkcs7.unwrap(wrapped, DecryptConfig(keys), lambda _key, reason: told.append(reason)) is None
    assert told == [NO_RECIPIENT, "it cannot be parsed as a private key", DOES_NOT_OPEN]
