"""PKCS#7: every form of BER and CMS, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import padding

from decoder import limits
from decoder.errors import WrappedKeyError
from decoder.formats import ber
from decoder.keywrap import pkcs7
from decoder.keywrap.pkcs7 import cms, content
from tests.support.keywrap import pkcs7_writer as writer
from tests.support.keywrap.pkcs7_parts import (
    OPTIONS,
    assert_opens,
    assert_refused,
    pem_of,
    somebody,
    unwrap,
)
from tests.support.keywrap.pkcs7_recipients import CMS, DOES_NOT_OPEN, as_the_reference, ciphertext
from tests.support.keywrap.pkcs7_writer import algorithm, der

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
    ]
    unproven = [
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
    for parts in unproven:  # tests/unit/keywrap/test_unproven.py: only the layer's HMAC tells these from what opens
        assert unwrap(writer.enveloped(parts), who.key) == (None, [])


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


@pytest.mark.parametrize("constructed", [False, True])
def test_opens_the_parameters_of_the_reference_in_every_layout(constructed: bool) -> None:
    parts = as_the_reference(writer.gcm_parts(somebody().key, OPTIONS))
    if constructed:  # as skopeo 1.9 writes it
        parts = parts._replace(content=der(0xA0, der(0x04, parts.content[5:])))
    assert_opens(writer.enveloped(parts), somebody())
    assert_opens(pem_of(writer.enveloped(parts), "CMS"), somebody())
    odd = parts._replace(algorithm=parts.algorithm.replace(b"\x84\x0c", b"\x85\x0c"))
    assert_refused(writer.enveloped(odd), "tag 0x85 instead of 0x84")


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
        ({"content_type": writer.ENVELOPED_DATA}, "more data follows its end"),
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
        ({"algorithm": algorithm(writer.AES_256_GCM, writer.rfc5084(length=b"\2\1\x0c"))}, "length in its param"),
        (
            {"algorithm": algorithm(writer.AES_256_GCM, writer.rfc5084(length=b"\2\1\x10\5\0"))},
            "more data follows its end",
        ),
        ({"mac": der(0x04, bytes(15))}, "length in its parameters"),
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


def test_a_cipher_that_the_library_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise UnsupportedAlgorithm("not here")

    monkeypatch.setattr(content, "Cipher", refuse)
    with pytest.raises(WrappedKeyError, match=r"^this OpenSSL library has no AES$"):
        unwrap(writer.enveloped(writer.cbc_parts(somebody().key, bytes(16))), somebody().key)


@pytest.mark.parametrize(
    ("key_algorithm", "reason"),
    [
        (algorithm("1.2.840.113549.1.1.10", writer.NULL), "1.2.840.113549.1.1.10 is not accepted"),
        (algorithm(writer.RSA_ENCRYPTION, b"\x04\x00"), "parameters that it must not have"),
        (algorithm(writer.RSAES_OAEP), "lacks its OAEP parameters"),
        (algorithm(writer.RSAES_OAEP, writer.NULL), "lacks its OAEP parameters"),
        (writer.oaep("1.2.840.113549.2.5"), "hash 1.2.840.113549.2.5 is not accepted"),
        (writer.oaep(mask=algorithm("1.2.3")), "not MGF1"),
        (writer.oaep(mask=algorithm(writer.MGF1)), "not MGF1"),
        (writer.oaep(mask=algorithm(writer.MGF1, algorithm("1.2.3"))), "hash 1.2.3 is not accepted"),
        (writer.oaep(source=algorithm("1.2.3")), "label of OAEP"),
        (algorithm(writer.RSAES_OAEP, der(0x30, writer.NULL)), "more data follows its end"),
    ],
)
def test_refuses_key_algorithms_before_any_key_is_touched(key_algorithm: bytes, reason: str) -> None:
    parts = writer.gcm_parts(somebody().key, OPTIONS)
    bad = writer.key_transport(somebody().key, bytes(32), key_algorithm=key_algorithm)
    assert_refused(writer.enveloped(parts._replace(recipients=(bad,))), reason)
    assert_opens(writer.enveloped(parts._replace(recipients=(bad, *parts.recipients))), somebody())


NESTED = b"\x30\x80" * 100_000


@pytest.mark.parametrize(
    ("wrapped", "reason"),
    [
        (b"", "cut short"),
        (b"x", "cut short"),
        (b"{}" * 100, "tag 0x7b instead of 0x30"),
        (b"\x30", "cut short"),
        (b"\x30\x00", "cut short"),
        (b"\x30\x80", "cut short"),
        (b"\x30\x80\x00\x00", "cut short"),
        (b"\x30\xff" + b"\xff" * 127, "cut short"),
        (b"\x30\x84\xff\xff\xff\xff", "cut short"),
        (CMS[:-1], "cut short"),
        (NESTED, "more than 16 indefinite"),
        (b"\x30\x80" + b"\x04\x00" * 100_000, "more than 4096 elements"),
        (CMS.ljust(limits.CMS_BYTES + 1), "longer than 262144"),
        (pem_of(CMS, "PRIVATE KEY"), "another label"),
        (pem_of(CMS, "CMS").partition(b"-----END")[0], "does not end"),
        (b"-----BEGIN CMS-----\n\xff\n-----END CMS-----", "not base64"),
    ],
    ids=range(16),
)
def test_refuses_what_is_no_cms(wrapped: bytes, reason: str) -> None:
    assert_refused(wrapped, reason)
