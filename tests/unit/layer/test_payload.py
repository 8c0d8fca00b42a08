"""The payload: what a client may send, and every way in which it can be wrong."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from typing import Any

import pytest

from decoder import limits
from decoder.errors import PayloadError
from decoder.layer.payload import Descriptor, Payload, build_payload, parse_payload
from tests.support.program.processes import any_bytes, payload_bytes, varint

DESCRIPTOR = {"mediaType": "a/b", "digest": "sha256:0", "size": 3, "annotations": {"k": "v"}}
VALUE: dict[str, Any] = {"DecryptConfig": {"Parameters": {"privkeys": ["AQID"]}}, "Descriptor": DESCRIPTOR}
PARSED = Payload({"privkeys": [b"\1\2\3"]}, Descriptor("a/b", {"k": "v"}, "sha256:0"))


def parse(value: object) -> Payload:
    return parse_payload(any_bytes(json.dumps(value).encode()))


def test_reads_what_it_builds() -> None:
    assert parse_payload(build_payload(PARSED)) == PARSED
    assert parse(VALUE) == PARSED


def test_accepts_a_prefix_of_the_type() -> None:
    for prefix in (b"type.googleapis.com/", b"a/b/", b"/"):
        payload = any_bytes(json.dumps(VALUE).encode(), prefix + b"io.containerd.ocicrypt.v1.Payload")
        assert parse_payload(payload) == PARSED


def test_struct_members_match_in_any_case_and_parameters_do_not() -> None:
    value = {"decryptconfig": {"PARAMETERS": {"PrivKeys": ["AQID"]}}, "DESCRIPTOR": {"MEDIATYPE": "a/b"}}
    assert parse(value) == Payload({"PrivKeys": [b"\1\2\3"]}, Descriptor("a/b", {}))


def test_base64_may_hold_line_breaks_or_be_integers_or_null() -> None:
    for item, data in (("AQ\nI\r\nD", b"\1\2\3"), ([1, 2, 255], b"\1\2\xff"), (None, b""), ("", b"")):
        assert parse({**VALUE, "DecryptConfig": {"Parameters": {"p": [item]}}}).parameters == {"p": [data]}


def test_null_is_the_empty_value() -> None:
    for config in ({}, {"DecryptConfig": None}, {"DecryptConfig": {"Parameters": None}}):
        assert parse({"Descriptor": {"mediaType": "a/b", "annotations": None}, **config}).parameters == {}
    assert parse({"DecryptConfig": {"Parameters": {"p": None}}}).parameters == {"p": []}


def test_skips_unknown_protobuf_fields() -> None:
    payload = any_bytes(json.dumps(VALUE).encode())
    unknown = varint(9 << 3) + varint(2**63) + varint(10 << 3 | 1) + bytes(8) + varint(11 << 3 | 5) + bytes(4)
    unknown += varint(12 << 3 | 2) + varint(3) + b"abc"
    assert parse_payload(unknown + payload + unknown) == PARSED


def test_every_truncation_is_refused() -> None:
    payload = payload_bytes(DESCRIPTOR, {"privkeys": [b"k"]})
    for length in range(len(payload)):
        with pytest.raises(PayloadError):
            parse_payload(payload[:length])


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "is empty"),
        (bytes(limits.PAYLOAD_BYTES + 1), "larger than 8388608 bytes"),
        (b"\0", "number 0"),
        (b"{}", "wire type 3"),
        (b"\x0b", "wire type 3"),
        (b"\x08\x01", "field 1 has wire type 0"),
        (b"\x12" + varint(2**40), "cut short"),
        (b"\x12" + b"\xff" * 11, "too long"),
        (b"\xff" * 3, "cut short"),
        (b"\x0a\x01\xff", "not a protobuf Any"),
        (b"\x12\x02{}", "the payload's type is ''"),
        (any_bytes(b"{}", b"google.protobuf.Empty"), "google.protobuf.Empty"),
        (any_bytes(b"{}", b"xio.containerd.ocicrypt.v1.Payload"), "type is"),
        (any_bytes(b""), "not JSON"),
        (any_bytes(b"null"), "JSON null instead of an object"),
        (any_bytes(b"no"), "not JSON"),
        (any_bytes(b"[]"), "JSON array"),
        (any_bytes(b'"x"'), "JSON string"),
        (any_bytes(b"1"), "JSON number"),
        (any_bytes(b"{} {}"), "not JSON"),
        (any_bytes(b'{"a":NaN}'), "not JSON"),
        (any_bytes(b"[" * 50_000), "nested too deeply|not JSON"),  # Python 3.14 has no limit but the stack's
        (any_bytes(b'{"a":' + b"9" * 10_000 + b"}"), "value"),
    ],
)
def test_refuses_what_is_no_payload(payload: bytes, reason: str) -> None:
    with pytest.raises(PayloadError, match=reason):
        parse_payload(payload)


PLACES: dict[str, list[object]] = {
    "DecryptConfig": [1, "x", [], True, 1.5],
    "DecryptConfig.Parameters": [1, "x", [], False],
    "DecryptConfig.Parameters.p": [1, "AQID", {}, True],
    "DecryptConfig.Parameters.p.0": [
        1,
        {},
        True,
        "!",
        "A",
        "AQ",
        "AQ=",
        "=AQI",
        "é",
        ["x"],
        [256],
        [-1],
        [1.0],
        [True],
    ],
    "Descriptor": [1, "x", [], True],
    "Descriptor.mediaType": [1, {}, [], True],
    "Descriptor.digest": [1, {}, [], True],
    "Descriptor.size": ["3", {}, [], True, 1.5],
    "Descriptor.annotations": [1, "x", [], True],
    "Descriptor.annotations.k": [1, {}, [], True, "v" * (limits.ANNOTATION_BYTES + 1)],
}


@pytest.mark.parametrize(("place", "wrong"), [(place, wrong) for place, values in PLACES.items() for wrong in values])
def test_refuses_wrong_types_at_every_place(place: str, wrong: object) -> None:
    value: Any = {"DecryptConfig": {"Parameters": {"p": ["AQID"]}}, "Descriptor": dict(DESCRIPTOR)}
    value["Descriptor"]["annotations"] = {"k": "v"}
    *path, last = [int(step) if step.isdigit() else step for step in place.split(".")]
    target = value
    for step in path:
        target = target[step]
    target[last] = wrong
    with pytest.raises(PayloadError, match=r"Descriptor|DecryptConfig"):
        parse(value)


def test_refuses_too_many_entries() -> None:
    with pytest.raises(PayloadError, match="more than 4096 entries"):
        parse({"DecryptConfig": {"Parameters": {"p": [""] * (limits.PARAMETER_ENTRIES + 1)}}})


def test_a_message_quotes_little_of_the_payload() -> None:
    with pytest.raises(PayloadError) as caught:
        parse_payload(any_bytes(b"{}", b"a" * 100_000))
    assert len(str(caught.value)) < 400


def test_mutations_are_parsed_or_refused() -> None:
    chance = random.Random(3)
    payload = payload_bytes(DESCRIPTOR, {"privkeys": [b"key"], "x509s": [b""], "p": []})
    for _ in range(20_000):
        changed = bytearray(payload)
        for _ in range(chance.randint(1, 3)):
            changed[chance.randrange(len(changed))] = chance.choice(b'\0\x0a\x12\x7f\x80\xff"{}[]:,0-9e.ntf\\u')
        with suppress(PayloadError):
            parse_payload(bytes(changed))
