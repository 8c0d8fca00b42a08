"""Protobuf fields as they are on the wire (protobuf.dev, Encoding)."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoder.formats import protobuf


@given(st.integers(1, 100_000), st.binary(max_size=1000))
def test_reads_what_it_wrote(number: int, value: bytes) -> None:
    assert protobuf.parse_bytes(protobuf.build_bytes(number, value), number) == value


@given(st.integers(1, 100_000), st.integers(0, 2**63 - 1))
def test_reads_the_integer_it_wrote(number: int, value: int) -> None:
    data = protobuf.build_bytes(number + 1, b"x") + protobuf.build_varint(number, value)
    assert protobuf.parse_varint(data, number) == value
    assert protobuf.parse_varint(data, number + 2) == 0
    with pytest.raises(ValueError, match=r"wire type"):
        protobuf.parse_varint(data, number + 1)


@given(st.binary(max_size=100))
def test_whatever_comes_is_read_or_refused(data: bytes) -> None:
    with suppress(ValueError):
        assert protobuf.parse_bytes(data, 1) in data


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"", b""),
        (b"\x0a\x00", b""),
        (b"\x0a\x01a\x0a\x01b", b"b"),
        (b"\x12\x01x\x0a\x01a", b"a"),
        (b"\x10\x96\x01\x0a\x01a", b"a"),
        (b"\x19" + bytes(8) + b"\x1d" + bytes(4) + b"\x0a\x01a", b"a"),
    ],
)
def test_other_fields_are_skipped_and_the_last_one_wins(data: bytes, value: bytes) -> None:
    assert protobuf.parse_bytes(data, 1) == value


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a",
        b"\x0a\x02a",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x0a" + b"\x80" * 10 + b"\x01",
        b"\x08\x01",
        b"\x02\x00",
        b"\x0b",
        b"\x1d\x00",
        b"\x80",
    ],
)
def test_what_is_no_message(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"cut short|wire type|number"):
        protobuf.parse_bytes(data, 1)
