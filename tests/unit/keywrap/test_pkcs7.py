"""PKCS#7 against openssl, skopeo and the reference, every BER form, and what must not be told apart."""

from __future__ import annotations

import json
import random
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from decoder import limits
from decoder.errors import KeyFileError, WrappedKeyError
from decoder.formats import ber, wire
from decoder.keys.keyring import DecryptConfig
from decoder.keys.privatekey import PrivateKey
from decoder.keywrap import pkcs7
from decoder.keywrap.pkcs7 import cms
from decoder.layer import annotations as layer
from tests.support import pkcs7_writer as writer
from tests.support.layers import ec_key, pem, rsa_key
from tests.support.pkcs7_parts import (
    NO_KEY,
    OPTIONS,
    Somebody,
    assert_opens,
    assert_refused,
    keys_of,
    pem_of,
    somebody,
    unwrap,
)
from tests.support.pkcs7_writer import algorithm, der
from tests.support.processes import ROOT

VECTORS = ROOT / "tests/vectors"
CASES: list[dict[str, Any]] = [
    case
    for case in json.loads((VECTORS / "cases.json").read_text())
    if layer.KEYS_PREFIX + "pkcs7" in case["descriptor"]["annotations"]
]
DOES_NOT_OPEN = "it does not open this wrapped key"
CANNOT_FIT = "it can be the key of no recipient, by their certificates and its size"
NO_RECIPIENT = "it is the certificate of no recipient"


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
        assert opened is not None
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
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo): "not a public key alone",
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo): "not a public key alone",
        public.public_bytes(Encoding.DER, PublicFormat.PKCS1): "not a public key alone",
        pem(rsa_key()): "not a certificate",
        certificate[:-1]: "cut short",
        b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n": "not base64",
        Somebody("on a curve", ec_key()).der: "not a usable RSA key",
        b"\x30" * (limits.CERTIFICATE_BYTES + 1): "longer than",
    }
    for data, problem in problems.items():
        with pytest.raises(KeyFileError, match=problem):
            pkcs7.wrap(OPTIONS, [somebody().certificate, data])


@pytest.mark.parametrize("count", [0, limits.CMS_RECIPIENTS + 1])
def test_wraps_for_no_more_recipients_than_open(count: int) -> None:
    with pytest.raises(KeyFileError, match="1 to 64 recipients"):
        pkcs7.wrap(OPTIONS, [somebody().der] * count)
    assert_opens(pkcs7.wrap(OPTIONS, [somebody().der] * limits.CMS_RECIPIENTS), somebody())


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
        "key0: it is not an RSA key, and PKCS#7 is for these alone",
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
    numbers = b"\0" + der(0x30, der(0x02, modulus), der(0x02, exponent))
    public = der(0x30, algorithm(writer.RSA_ENCRYPTION, writer.NULL), der(0x03, numbers))
    with pytest.raises(KeyFileError, match="not a usable RSA key"):
        pkcs7.wrap(OPTIONS, [der(0x30, der(0x30, der(0x02, b"\1"), *[der(0x30)] * 4, public))])


def test_a_malformed_key_hides_nothing() -> None:
    keys = keys_of(somebody().key, certificates=(somebody().certificate,))
    keys.private.insert(0, PrivateKey("broken", "pem", b"-----BEGIN PRIVATE KEY-----", b""))
    told: list[str] = []
    wrapped = pkcs7.wrap(OPTIONS, [somebody().certificate])
    assert pkcs7.unwrap(wrapped, DecryptConfig(keys), lambda _key, reason: told.append(reason)) == OPTIONS
    wrapped = pkcs7.wrap(OPTIONS, [somebody("second").certificate])
    assert pkcs7.unwrap(wrapped, DecryptConfig(keys), lambda _key, reason: told.append(reason)) is None
    assert told == [NO_RECIPIENT, "it cannot be parsed as a private key", DOES_NOT_OPEN]


# What must not be told apart.


def test_failures_of_rsa_and_of_the_content_are_one_failure() -> None:
    """Neither Bleichenbacher's question nor Vaudenay's gets an answer (RFC 3218, RFC 5652 §6.3)."""
    who, padded = somebody(), OPTIONS + bytes([16 - len(OPTIONS) % 16]) * (16 - len(OPTIONS) % 16)
    assert len(padded) % 16 == 0
    gcm, cbc = writer.gcm_parts(who.key, OPTIONS), writer.cbc_parts(who.key, padded)
    assert unwrap(writer.enveloped(gcm), who.key) == unwrap(writer.enveloped(cbc), who.key) == (OPTIONS, [])
    no_rsa_padding = gcm.recipients[0][:-256] + b"\1" * 256
    out_of_range = gcm.recipients[0][:-256] + b"\xff" * 256
    failures = [
        gcm._replace(recipients=(no_rsa_padding,)),
        gcm._replace(recipients=(out_of_range,)),
        gcm._replace(recipients=(writer.key_transport(who.key, b"short"),)),
        gcm._replace(recipients=(writer.key_transport(who.key, bytes(32)),)),
        gcm._replace(recipients=(writer.key_transport(who.key, bytes(200)),)),
        gcm._replace(mac=der(0x04, bytes(16))),
        gcm._replace(content=der(0x80, b"")),
        gcm._replace(attributes=der(0xA1, b"\x30\x00")),
        cbc._replace(recipients=(no_rsa_padding,)),
        cbc._replace(recipients=(writer.key_transport(who.key, b"short"),)),
        writer.cbc_parts(who.key, padded[:-1] + b"\0"),
        writer.cbc_parts(who.key, padded[:-1] + b"\x11"),
        writer.cbc_parts(who.key, b"x" * 15 + b"\1"),
        writer.cbc_parts(who.key, b"{}" + b"\x0e" * 14),
        writer.cbc_parts(who.key, b"\x10" * 16),
    ]
    for parts in failures:
        assert unwrap(writer.enveloped(parts), who.key) == (None, [f"key0: {DOES_NOT_OPEN}"])


def test_a_failed_rsa_decryption_gives_a_random_content_key() -> None:
    key = somebody().key
    for rsa_padding in (padding.PKCS1v15(), pkcs7._padding(parsed_algorithm(writer.oaep()))):
        for encrypted in (b"\1" * 256, b"\xff" * 256, key.public_key().encrypt(b"too long" * 5, rsa_padding)):
            recipient = pkcs7._Recipient(b"", rsa_padding, encrypted)
            found = {pkcs7._content_key(recipient, key, 24) for _ in range(4)}
            assert {len(content_key) for content_key in found} == {24}
            # OpenSSL's implicit rejection makes up the same message each time, and once in some 250 keys it
            # happens to be 24 bytes long; whatever else fails gets another key each time.
            assert len(found) == 4 or (isinstance(rsa_padding, padding.PKCS1v15) and len(found) == 1)


def parsed_algorithm(encoded: bytes) -> cms.Algorithm:
    return cms.take_algorithm(ber.Reader(encoded))


# Every form of BER, and of CMS.


@pytest.mark.parametrize("tag_bytes", [12, 13, 14, 15, 16])
def test_opens_tags_of_every_accepted_length(tag_bytes: int) -> None:
    who = somebody()
    parts = writer.gcm_parts(who.key, OPTIONS, tag_bytes=tag_bytes)
    assert_opens(writer.enveloped(parts), who)
    at_the_end = parts._replace(content_type=writer.ENVELOPED_DATA, mac=b"", content=der(0x80, ciphertext(parts)))
    assert_opens(writer.enveloped(at_the_end), who)
    default = algorithm(writer.AES_256_GCM, writer.rfc5084(length=b""))
    opened, _ = unwrap(writer.enveloped(at_the_end._replace(algorithm=default)), who.key)
    assert (opened == OPTIONS) is (tag_bytes == 12)


def ciphertext(parts: writer.Parts) -> bytes:
    return parts.content[5:] + parts.mac[5:]


def as_the_reference(parts: writer.Parts) -> writer.Parts:
    """Give the content the reference's parameters: a SEQUENCE with a primitive tag."""
    parameters = bytes.fromhex("10133011840c") + writer.NONCE + bytes.fromhex("020110")
    return parts._replace(
        content_type=writer.ENVELOPED_DATA,
        algorithm=algorithm(writer.AES_256_GCM, parameters),
        content=der(0x80, ciphertext(parts)),
        mac=b"",
    )


@pytest.mark.parametrize("constructed", [False, True])
def test_opens_the_parameters_of_the_reference_in_every_layout(constructed: bool) -> None:
    parts = as_the_reference(writer.gcm_parts(somebody().key, OPTIONS))
    if constructed:  # as skopeo 1.9 writes it
        parts = parts._replace(content=der(0xA0, der(0x04, parts.content[5:])))
    assert_opens(writer.enveloped(parts), somebody())
    assert_opens(pem_of(writer.enveloped(parts), "CMS"), somebody())
    odd = parts._replace(algorithm=parts.algorithm.replace(b"\x84\x0c", b"\x85\x0c"))
    assert_refused(writer.enveloped(odd), "tag 0x85 where 0x84 belongs")


def test_authenticates_attributes() -> None:
    who = somebody()
    attributes = der(0x30, writer.oid("1.2.3.4"), der(0x31, b"\x04\x01x"))
    parts = writer.gcm_parts(who.key, OPTIONS, attributes)
    assert_opens(writer.enveloped(parts), who)
    assert_opens(writer.enveloped(parts._replace(mac=parts.mac + der(0xA2, attributes))), who)
    for changed in (b"", der(0xA1, attributes.replace(b"x", b"y")), der(0xA1, attributes, attributes)):
        assert unwrap(writer.enveloped(parts._replace(attributes=changed)), who.key)[0] is None


def test_opens_every_form_of_ber() -> None:
    who = somebody()
    parts = writer.gcm_parts(who.key, OPTIONS)
    secret = parts.content[5:]
    chunks = [der(0x04, secret[at : at + 50]) for at in range(0, len(secret), 50)]
    other_kinds = (der(0xA1, b"\x02\x01\x03"), der(0xA2), der(0xA3), der(0xA4))
    forms = [
        parts._replace(content=der(0xA0, *chunks)),
        parts._replace(content=der(0xA0, der(0x04, secret), der(0x04))),
        parts._replace(mac=der(0x24, parts.mac)),
        parts._replace(originator=der(0xA0, b"\x30\x00")),
        parts._replace(recipients=other_kinds + parts.recipients),
    ]
    for form in forms:
        wrapped = writer.enveloped(form)
        assert_opens(wrapped, who)
        assert_opens(writer.indefinite(wrapped), who)
        assert_opens(pem_of(wrapped, "PKCS7"), who)
        assert_opens(b"From: somebody\n\n" + pem_of(wrapped, "CMS"), who)


def test_finds_the_certificate_whatever_the_form_of_the_identifier() -> None:
    who, other = somebody(), somebody("second")
    parsed = cms.parse_certificate(who.der)
    key_identifier = writer.key_identifier(who.key)
    forms = [
        der(0x30, parsed.issuer_and_serial[1:]),
        b"\x30\x80" + parsed.issuer_and_serial[1:] + b"\0\0",
        der(0x80, key_identifier),
        der(0xA0, der(0x04, key_identifier[:7]), der(0x04, key_identifier[7:])),
    ]
    parts = writer.gcm_parts(who.key, OPTIONS)
    (recipient,) = parts.recipients
    for form in forms:
        named = recipient.replace(der(0x80, key_identifier), form)
        renewed = der(0x30, named[named.index(b"\x02\x01\x02") :])
        wrapped = writer.enveloped(parts._replace(recipients=(renewed,)))
        assert unwrap(wrapped, other.key, who.key, certificates=(who.certificate,)) == (OPTIONS, [])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"content_type": "1.2.840.113549.1.7.2"}, "1.2.840.113549.1.7.2"),
        ({"content_type": writer.ENVELOPED_DATA}, "after its end"),
        ({"recipients": ()}, "no recipient"),
        ({"recipients": (der(0xA1), der(0xA2), der(0xA3))}, "no recipient"),
        ({"recipients": (der(0xA1),) * (limits.CMS_RECIPIENTS + 1)}, "more than 64 elements"),
        ({"recipients": (b"\x30\x00",)}, "cut short"),
        ({"algorithm": algorithm("1.3.14.3.2.7", der(0x04, bytes(8)))}, "1.3.14.3.2.7 is not accepted"),
        ({"algorithm": algorithm("1.2.840.113549.3.2")}, "1.2.840.113549.3.2 is not accepted"),
        ({"algorithm": algorithm(writer.AES_256_CBC, der(0x04, bytes(16)))}, "is not accepted"),
        ({"algorithm": algorithm("1.2.840.113549.3.7", der(0x04, bytes(8)))}, "is not accepted"),
        ({"algorithm": algorithm("2.999." + "1." * 40 + "1")}, "malformed is not accepted"),
        ({"algorithm": algorithm(writer.AES_256_GCM)}, "no GCM parameters"),
        ({"algorithm": algorithm(writer.AES_256_GCM, writer.NULL)}, "no GCM parameters"),
        ({"algorithm": algorithm(writer.AES_256_GCM, writer.rfc5084(bytes(11)))}, "wrong length"),
        ({"algorithm": algorithm(writer.AES_256_GCM, writer.rfc5084(bytes(16)))}, "wrong length"),
        ({"algorithm": algorithm(writer.AES_256_GCM, writer.rfc5084(length=b"\2\1\4"))}, "wrong length"),
        ({"algorithm": algorithm(writer.AES_256_GCM, writer.rfc5084(length=b"\2\1\x11"))}, "wrong length"),
        ({"algorithm": algorithm(writer.AES_256_GCM, writer.rfc5084(length=b"\2\1\x0c"))}, "length that its param"),
        ({"algorithm": algorithm(writer.AES_256_GCM, writer.rfc5084(length=b"\2\1\x10\5\0"))}, "after its end"),
        ({"mac": der(0x04, bytes(15))}, "length that its parameters say"),
        ({"mac": b""}, "cut short"),
        ({"content": b""}, "cut short"),
        ({"content": der(0xA0, der(0x24, der(0x04)))}, "in parts"),
        ({"content": b"\xa0\x80" + b"\x04\x00" * limits.BER_ELEMENTS + b"\0\0"}, "more than 4096"),
        ({"content": b"\x80\x80\x00\x00"}, "primitive element of indefinite"),
        ({"content": b"\x9f\x81\x00\x00"}, "tag of several bytes"),
    ],
)
def test_refuses_before_any_key_is_touched(changes: dict[str, Any], reason: str) -> None:
    assert_refused(writer.enveloped(writer.gcm_parts(somebody().key, OPTIONS)._replace(**changes)), reason)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"algorithm": algorithm(writer.AES_256_CBC)}, "the IV"),
        ({"algorithm": algorithm(writer.AES_256_CBC, der(0x04, bytes(15)))}, "the IV"),
        ({"content": der(0x80, b"")}, "whole blocks"),
        ({"content": der(0x80, bytes(17))}, "whole blocks"),
    ],
)
def test_refuses_malformed_cbc(changes: dict[str, Any], reason: str) -> None:
    assert_refused(writer.enveloped(writer.cbc_parts(somebody().key, bytes(16))._replace(**changes)), reason)


@pytest.mark.parametrize(
    ("key_algorithm", "reason"),
    [
        (algorithm("1.2.840.113549.1.1.10", writer.NULL), "1.2.840.113549.1.1.10 is not accepted"),
        (algorithm(writer.RSA_ENCRYPTION, b"\x04\x00"), "parameters where none belong"),
        (algorithm(writer.RSAES_OAEP), "lacks its OAEP parameters"),
        (algorithm(writer.RSAES_OAEP, writer.NULL), "lacks its OAEP parameters"),
        (writer.oaep("1.2.840.113549.2.5"), "hash 1.2.840.113549.2.5 is not accepted"),
        (writer.oaep(mask=algorithm("1.2.3")), "not MGF1"),
        (writer.oaep(mask=algorithm(writer.MGF1)), "not MGF1"),
        (writer.oaep(mask=algorithm(writer.MGF1, algorithm("1.2.3"))), "hash 1.2.3 is not accepted"),
        (writer.oaep(source=algorithm("1.2.3")), "label of OAEP"),
        (algorithm(writer.RSAES_OAEP, der(0x30, writer.NULL)), "after its end"),
    ],
)
def test_refuses_key_algorithms_before_any_key_is_touched(key_algorithm: bytes, reason: str) -> None:
    parts = writer.gcm_parts(somebody().key, OPTIONS)
    bad = writer.key_transport(somebody().key, bytes(32), key_algorithm=key_algorithm)
    assert_refused(writer.enveloped(parts._replace(recipients=(bad,))), reason)
    assert_opens(writer.enveloped(parts._replace(recipients=(bad, *parts.recipients))), somebody())


NESTED = b"\x30\x80" * 100_000
CMS = writer.enveloped(writer.gcm_parts(somebody().key, OPTIONS))


@pytest.mark.parametrize(
    ("wrapped", "reason"),
    [
        (b"", "cut short"),
        (b"x", "cut short"),
        (b"{}" * 100, "tag 0x7b where 0x30 belongs"),
        (b"\x30", "cut short"),
        (b"\x30\x00", "cut short"),
        (b"\x30\x80", "cut short"),
        (b"\x30\x80\x00\x00", "cut short"),
        (b"\x30\xff" + b"\xff" * 127, "cut short"),
        (b"\x30\x84\xff\xff\xff\xff", "cut short"),
        (CMS + b"\0", "after its end"),
        (CMS[:-1], "cut short"),
        (NESTED, "more than 16 indefinite"),
        (b"\x30\x80" + b"\x04\x00" * 100_000, "more than 4096 elements"),
        (CMS.ljust(limits.CMS_BYTES + 1), "longer than 262144"),
        (pem_of(CMS, "PRIVATE KEY"), "another label"),
        (pem_of(CMS, "CMS").partition(b"-----END")[0], "does not end"),
        (b"-----BEGIN CMS-----\n\xff\n-----END CMS-----", "not base64"),
    ],
    ids=range(17),
)
def test_refuses_what_is_no_cms(wrapped: bytes, reason: str) -> None:
    assert_refused(wrapped, reason)


# Whatever else comes.


STRUCTURE_BYTES = b"\0\1\2\4\5\6\x10\x20\x24\x30\x31\x7f\x80\x81\x82\xa0\xa1\xff"


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Change, cut, repeat or insert a few bytes, most often where the structure is."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        at = chance.randrange(len(changed) or 1)
        match chance.randrange(7):
            case 0 | 1:
                changed[at : at + 1] = chance.choice(STRUCTURE_BYTES).to_bytes()
            case 2:
                changed[at : at + 1] = chance.randbytes(1)
            case 3:
                del changed[at : at + chance.choice((1, 2, 20))]
            case 4:
                changed[at:at] = changed[at : at + chance.randrange(40)]
            case 5:
                changed[at:at] = chance.randbytes(chance.randrange(1, 4))
            case _:
                del changed[at : None if chance.random() < 0.3 else at + 1]
    return bytes(changed)


def small() -> Somebody:
    """A key of a size that makes many trials quick."""
    return somebody("small", 1024)


def seeds() -> dict[str, bytes]:
    key = small().key
    parts = writer.gcm_parts(key, OPTIONS)
    padded = OPTIONS + bytes([16 - len(OPTIONS) % 16]) * (16 - len(OPTIONS) % 16)
    oaep = writer.key_transport(key, bytes(32), key_algorithm=writer.oaep())
    return {
        "authenticated": writer.enveloped(parts),
        "indefinite": writer.indefinite(writer.enveloped(parts)),
        "PEM": pem_of(writer.enveloped(parts), "CMS"),
        "reference": writer.enveloped(as_the_reference(parts)),
        "CBC": writer.enveloped(writer.cbc_parts(key, padded)),
        "OAEP": writer.enveloped(parts._replace(recipients=(oaep, *parts.recipients))),
    }


@pytest.mark.parametrize("name", list(seeds()))
def test_mutations_never_crash(name: str) -> None:
    """Whatever they become: refused, not opened, or (only where it means the same) opened."""
    data = seeds()[name]
    keys = keys_of(small().key, certificates=(small().der,))
    chance = random.Random(name)
    refusals, unopened = [], 0
    for _ in range(4000):
        try:
            opened = pkcs7.unwrap(mutated(data, chance), DecryptConfig(keys), lambda _key, _reason: None)
        except WrappedKeyError as error:
            refusals.append(str(error))
            continue
        unopened += opened is None
        if name == "CBC" and opened is not None:
            layer.parse_private_options(opened)
        else:
            assert opened in (None, OPTIONS)
    assert len(refusals) > 250
    assert unopened > 50
    assert all(reason.startswith("it is not usable CMS: ") for reason in refusals)


@pytest.mark.parametrize("data", [CMS, pkcs7.wrap(OPTIONS, [somebody().der])], ids=["RFC 5083", "reference"])
def test_truncations_never_open(data: bytes) -> None:
    for length in range(len(data)):
        with pytest.raises(WrappedKeyError):
            unwrap(data[:length], somebody().key)


def test_mutated_certificates_never_crash() -> None:
    chance = random.Random(3)
    recipients = pkcs7._acceptable_recipients(cms.parse_envelope(pkcs7.wrap(OPTIONS, [somebody().der])).recipients)
    told: list[str] = []
    for _ in range(5000):
        data = mutated(chance.choice((somebody().der, somebody().certificate)), chance)
        pkcs7._certified_moduli(recipients, keys_of(certificates=(data,)), lambda _key, reason: told.append(reason))
        with suppress(KeyFileError):
            assert pkcs7.wrap(OPTIONS, [data])
    assert len(told) == 5000
    assert 500 < sum("cannot be parsed" in reason for reason in told) < 5000


HEADERS = [b"\x04\x00", b"\x30\x00", b"\xa0\x80", b"\x30\x80\0\0", b"\x24\x82\x03\xe8", b"\x04\x82\xff\xff"]


@pytest.mark.parametrize("header", HEADERS, ids=[header.hex() for header in HEADERS])
def test_the_largest_inputs_take_little_memory(header: bytes) -> None:
    """Each place in turn is filled until the whole has CMS_BYTES."""
    parts = writer.gcm_parts(somebody().key, OPTIONS)
    many = header * ((limits.CMS_BYTES - len(writer.enveloped(parts)) - 100) // len(header))
    places: dict[str, Any] = {
        "originator": der(0xA0, many),
        "recipients": (der(0x30, many), *parts.recipients),
        "algorithm": der(0x30, many),
        "content": der(0xA0, many),
        "attributes": der(0xA1, many),
        "mac": der(0x24, many),
    }
    tracemalloc.start()
    try:
        for place, filling in places.items():
            wrapped = writer.enveloped(parts._replace(**{place: filling}))
            assert limits.CMS_BYTES - 1000 < len(wrapped) <= limits.CMS_BYTES
            with suppress(WrappedKeyError):
                assert unwrap(wrapped, somebody().key)[0] == (OPTIONS if place == "originator" else None)
        assert tracemalloc.get_traced_memory()[1] < 4 * limits.MIB
    finally:
        tracemalloc.stop()
