"""PKCS#11 URIs (RFC 7512), which name a key on a token, its module, and the source of its PIN. No I/O here.

A URI may hold a PIN, so messages never quote it.
"""

from __future__ import annotations

from binascii import Error as HexError
from binascii import unhexlify

from decoder.errors import KeyFileError
from decoder.record import Record

_SCHEME = "pkcs11:"
# The attributes that select a token (RFC 7512 §2.3); `object` and `id` select a key on it.
TOKEN_ATTRIBUTES = (
    "token",
    "manufacturer",
    "serial",
    "model",
    "slot-id",
    "slot-description",
    "slot-manufacturer",
)


class Pkcs11Uri(Record):
    """A parsed URI; attributes that it does not have are absent or None.

    Attributes:
        token: the attributes that select a token, by name.
        label: CKA_LABEL of the key.
        key_id: CKA_ID of the key.
        query: pin-value, pin-source, module-name, module-path and other attributes after the question mark.
    """

    token: dict[str, str]
    label: str | None
    key_id: bytes | None
    query: dict[str, str]

    def __repr__(self) -> str:
        return "Pkcs11Uri(…)"  # the query may hold the PIN


def parse_uri(text: str) -> Pkcs11Uri:
    """Parse a PKCS#11 URI (RFC 7512 §2.3, §2.4).

    Raises:
        KeyFileError: it is malformed, or an attribute occurs twice; the message does not quote it.
    """
    text = text.strip()
    if not text.startswith(_SCHEME):
        raise KeyFileError("its URI does not start with pkcs11:")
    path_text, _, query_text = text.removeprefix(_SCHEME).partition("?")
    path = _attributes(path_text, ";")
    query = {name: _text(value) for name, value in _attributes(query_text, "&").items()}
    if "pin-value" in query and "pin-source" in query:
        raise KeyFileError("its URI has both a pin-value and a pin-source")
    token = {name: _text(path[name]) for name in TOKEN_ATTRIBUTES if name in path}
    slot = token.get("slot-id", "0")
    if not (slot.isascii() and slot.isdigit() and len(slot) <= 20):
        raise KeyFileError("the slot-id in its URI is not a number")
    return Pkcs11Uri(token, _text(path["object"]) if "object" in path else None, path.get("id"), query)


def percent_decode(text: str) -> bytes:
    """Decode percent-encoding (RFC 3986 §2.1).

    Raises:
        KeyFileError: a percent sign is not followed by two hexadecimal digits.
    """
    first, *rest = text.encode().split(b"%")
    try:
        return first + b"".join(unhexlify(part[:2].ljust(2, b"?")) + part[2:] for part in rest)
    except HexError as error:
        raise KeyFileError("its URI has a broken percent-encoding") from error


def _attributes(text: str, separator: str) -> dict[str, bytes]:
    attributes: dict[str, bytes] = {}
    for item in filter(None, text.split(separator)):
        name, equals, value = item.partition("=")
        if not equals or name in attributes:
            raise KeyFileError("its URI has an attribute that is malformed or occurs twice")
        attributes[name] = percent_decode(value)
    return attributes


def _text(value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        raise KeyFileError("its URI has an attribute that is not UTF-8") from error
    if "\0" in text:
        raise KeyFileError("its URI has an attribute with a NUL character")
    return text
