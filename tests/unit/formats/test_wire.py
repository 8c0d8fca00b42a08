"""Bounds of JSON: what a text may become in memory."""

from __future__ import annotations

import pytest

from decoder import limits
from decoder.formats.wire import parse_json, parse_object


@pytest.mark.parametrize("item", [b"1", b"[]", b"{}", b'"a"', b"null"])
def test_the_number_of_values(item: bytes) -> None:
    more = 2 if item in (b"[]", b"{}") else 1  # a bracket and a comma
    fitting = (limits.JSON_VALUES - 1) // more
    values = parse_json(b"[" + b",".join([item] * fitting) + b"]")
    assert isinstance(values, list)
    assert len(values) == fitting
    with pytest.raises(ValueError, match=f"^JSON with more than {limits.JSON_VALUES} values$"):
        parse_json(b"[" + b",".join([item] * (limits.JSON_VALUES + 2)) + b"]")


@pytest.mark.parametrize("sign", ["\u00e9", "\u20ac", "\U0001f600", "\\u00e9", "\\ud83d\\ude00"])
def test_wide_text(sign: str) -> None:
    for size, fits in ((limits.JSON_WIDE_BYTES - 40, True), (limits.JSON_WIDE_BYTES + 1, False)):
        text = ('{"title":"' + sign + "x" * size + '"}').encode()
        if fits:
            assert len(text) <= limits.JSON_WIDE_BYTES
            assert len(str(parse_object(text)["title"])) == size + 1
            continue
        with pytest.raises(ValueError, match="with characters outside ASCII"):
            parse_object(text)


def test_long_ascii_text() -> None:
    text = b'{"title":"' + b"x" * (4 * limits.JSON_WIDE_BYTES) + b'"}'
    assert len(str(parse_object(text)["title"])) == 4 * limits.JSON_WIDE_BYTES
