"""JSON: the same values and errors as the standard library's, and bounds of what a text may become in memory."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys

import pytest

from decoder import limits
from decoder.formats.wire import parse_json, parse_object
from tests.support.program.processes import ROOT


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


_TEXTS = [
    *(
        b"",
        b" ",
        b"nul",
        b"[1,]",
        b"[1",
        b"{}x",
        b"{} {}",
        b'{"a" 1}',
        b'{"a":1,}',
        b'"a\nb"',
        b'"\\x"',
        b"\xef\xbb\xbf{}",
    ),
    *(
        b"01",
        b"-",
        b"1.",
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"[" * 30_000,
        b"9" * 5000,
        b'"\\ud83d"',
        b'"\\ud83d\\ude00"',
    ),
    *(
        b"\n{} \t\r\n",
        b"\x0c{}",
        b'{"a":{"b":[1,2.5e3,-7,true,false,null,""]},"a":2}',
        '"\u00e9\u20ac"'.encode(),
        b'"\xff"',
    ),
]


@pytest.mark.parametrize("text", _TEXTS, ids=lambda text: repr(text[:20]))
def test_json_is_read_as_the_standard_library_reads_it(text: bytes) -> None:
    try:
        expected = repr(json.loads(text.decode(errors="replace"), parse_constant=_refuse))
    except json.JSONDecodeError as error:
        expected = f"not JSON ({error.msg} at character {error.pos})"
    except ValueError as error:
        expected = str(error)
    except RecursionError:
        expected = "JSON nested too deeply"
    assert outcome(text) == expected


def test_the_same_where_json_has_not_been_imported_before() -> None:
    """The environment is empty, because a measurement of coverage that it starts would import json."""
    program = (
        f"from decoder.formats.wire import parse_json\n{inspect.getsource(outcome)}\nprint(outcome(eval(sys.argv[1])))"
    )
    for text in (b"[1,]", b'"a\nb"', b'"\\x"', b"[1]"):
        command = [sys.executable, "-c", f"import sys; assert 'json' not in sys.modules\n{program}", repr(text)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, cwd=ROOT, env={})
        assert done.stdout == outcome(text) + "\n"


def outcome(text: bytes) -> str:
    try:
        return repr(parse_json(text))
    except ValueError as error:
        return str(error)


def _refuse(name: str) -> object:
    raise ValueError(f"not JSON ({name} is not a number)")
