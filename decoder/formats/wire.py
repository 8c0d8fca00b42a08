"""JSON and base64 as the Go programs at the other end write and read them.

Every reader raises ValueError for invalid input, with a reason that does not quote the input.
"""

from __future__ import annotations

import _json  # the scanner in json.loads; importing json would take 8 of 85 million instructions of a small layer
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from typing import TYPE_CHECKING, cast

from decoder import limits

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    Read = TypeVar("Read")


def parse_json(text: bytes) -> object:
    """Parse UTF-8 JSON text; ill-formed UTF-8 inside strings is replaced, as Go does.

    Args:
        text: the JSON text; the caller bounds its length. It may have at most JSON_VALUES values, because the value of
            `[]` takes 20 times the memory of its text. If it is longer than JSON_WIDE_BYTES, it must be ASCII, because
            a single wide character makes every character of a string take up to 4 bytes.

    Raises:
        ValueError: it is not JSON, or not within these bounds.
    """
    if count_values(text) > limits.JSON_VALUES:
        raise ValueError(f"JSON with more than {limits.JSON_VALUES} values")
    if len(text) > limits.JSON_WIDE_BYTES and (not text.isascii() or b"\\u" in text):
        raise ValueError(f"JSON of more than {limits.JSON_WIDE_BYTES} bytes with characters outside ASCII")
    try:
        return _load(text.decode(errors="replace"))
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error


def _load(text: str) -> object:
    """Parse as `json.loads` does. Text that the scanner rejects goes to json, whose errors have the position."""
    stripped = text.strip(" \t\n\r")
    try:
        value, end = _json.make_scanner(cast("_json.make_scanner", _Scanning))(stripped, 0)
    except (StopIteration, ValueError, SystemError):  # SystemError: json.decoder with JSONDecodeError is not loaded
        end = -1
    if end == len(stripped):
        return cast(object, value)
    import json

    try:
        return cast(object, json.loads(text, parse_constant=_no_constant))
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at character {error.pos})") from error


def build_json(value: object) -> bytes:
    """Build JSON text as Go does, without spaces; characters outside ASCII are escaped."""
    import json

    return json.dumps(value, separators=(",", ":")).encode()


def count_values(text: bytes) -> int:
    """Return an upper bound on the number of values in JSON text, without parsing it."""
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def parse_object(text: bytes) -> dict[str, object]:
    """Parse UTF-8 JSON text that must be an object."""
    value = parse_json(text)
    if not isinstance(value, dict):
        raise ValueError(f"JSON {_kind(value)} instead of an object")
    return value


def member(value: dict[str, object], name: str) -> object:
    """Look up a struct member as Go's encoding/json does: letter case does not matter, and the last one wins.

    Returns:
        The member's value, or None if it is absent.
    """
    folded = name.lower()
    found: object = None
    for key, item in value.items():
        if key.lower() == folded:
            found = item
    return found


def text_value(value: object) -> str:
    """Return a Go string: a JSON string, or null for the empty one."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"JSON {_kind(value)} instead of a string")
    return value


def object_value(value: object) -> dict[str, object]:
    """Return a Go map or struct: a JSON object, or null for the empty one."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"JSON {_kind(value)} instead of an object")
    return value


def list_value(value: object) -> list[object]:
    """Return a Go slice: a JSON array, or null for the empty one."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError(f"JSON {_kind(value)} instead of an array")
    return value


def named(where: str, read: Callable[[object], Read], value: object) -> Read:
    """Read a value with one of the functions here; errors begin with `where`, the place of the value."""
    try:
        return read(value)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def bytes_value(value: object) -> bytes:
    """Return a Go []byte: base64 text, an array of integers from 0 to 255, or null for the empty one."""
    if value is None:
        return b""
    if isinstance(value, str):
        return decode_base64(value)
    if isinstance(value, list):
        if not all(type(item) is int and 0 <= item <= 255 for item in value):
            raise ValueError("an array with something other than bytes")
        return bytes(cast("list[int]", value))
    raise ValueError(f"JSON {_kind(value)} instead of base64")


def decode_base64(text: str) -> bytes:
    """Decode standard base64 with padding; white space anywhere is ignored (RFC 4648 §4)."""
    try:
        return a2b_base64("".join(text.split()), strict_mode=True)
    except Base64Error as error:
        raise ValueError(f"not base64 ({error})") from error
    except ValueError as error:
        raise ValueError("not base64 (a character outside ASCII)") from error


def encode_base64(data: bytes) -> str:
    """Encode to standard base64, padded, without line breaks."""
    return b2a_base64(data, newline=False).decode()


def decode_base64url(text: str) -> bytes:
    """Decode base64url without padding (RFC 7515 §2); white space anywhere is ignored."""
    text = "".join(text.split())
    if "+" in text or "/" in text or "=" in text:
        raise ValueError("not base64url")
    return decode_base64(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4))


def encode_base64url(data: bytes) -> str:
    """Encode to base64url without padding (RFC 7515 §2)."""
    return encode_base64(data).rstrip("=").replace("+", "-").replace("/", "_")


def _no_constant(name: str) -> object:
    raise ValueError(f"not JSON ({name} is not a number)")


class _Scanning:
    """The settings of the scanner, under the names that it looks up."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int, parse_constant = float, int, staticmethod(_no_constant)


def _kind(value: object) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")
