"""The structure of a JWE: both JSON serializations and the compact one (RFC 7516 §7). No key is used here."""

from __future__ import annotations

from decoder import limits
from decoder.errors import WrappedKeyError
from decoder.formats import wire
from decoder.record import Record

_BASE64 = ("protected", "iv", "ciphertext", "tag", "aad")


class JweRecipient(Record):
    """One recipient.

    Attributes:
        joined: the protected, the shared and the recipient's header, joined (RFC 7516 §7.2.1).
        own: the shared and the recipient's header, joined; they are not authenticated.
        encrypted_key: the content key, encrypted to the recipient.
    """

    joined: dict[str, object]
    own: dict[str, object]
    encrypted_key: bytes


class Jwe(Record):
    """A JWE.

    Attributes:
        value: its members, not decoded; for the compact form, those that all forms have.
        members: `protected`, `iv`, `ciphertext`, `tag` and `aad`, decoded; empty if absent.
        recipients: at most JWE_RECIPIENTS.
    """

    value: dict[str, object]
    members: dict[str, bytes]
    recipients: list[JweRecipient]

    @property
    def additional_data(self) -> bytes:
        """The additional authenticated data of the content (RFC 7516 §5.1 step 14)."""
        protected, aad = (wire.encode_base64url(self.members[name]) for name in ("protected", "aad"))
        return (f"{protected}.{aad}" if aad else protected).encode()


def parse(wrapped: bytes) -> Jwe:
    """Parse a JWE.

    White space is ignored everywhere, as go-jose does, that of Unicode too: files end with a newline, tools fold and
    indent, and text that was copied from a page has no-break spaces.

    Args:
        wrapped: at most JWE_BYTES.

    Raises:
        WrappedKeyError: it is malformed or too long, or has too many recipients.
    """
    if len(wrapped) > limits.JWE_BYTES:
        raise WrappedKeyError(f"it is longer than {limits.JWE_BYTES} bytes")
    text = wrapped.decode(errors="replace").strip()
    try:
        return _parse_json(text) if text[:1] == "{" else _parse_compact(text)
    except ValueError as error:
        raise WrappedKeyError(f"it is not a JWE: {error}") from error


def _parse_compact(text: str) -> Jwe:
    """Parse the compact serialization (RFC 7516 §7.1)."""
    parts = text.split(".", 5)
    if len(parts) != 5:
        raise ValueError("it has neither the JSON nor the compact form")
    protected, encrypted_key, iv, ciphertext, tag = parts
    value: dict[str, object] = {"protected": protected, "iv": iv, "ciphertext": ciphertext, "tag": tag}
    return _parse_members({**value, "encrypted_key": encrypted_key})


def _parse_json(text: str) -> Jwe:
    """Parse the JSON serialization (RFC 7516 §7.2), even with lines folded within a value, as some tools do."""
    try:
        value = wire.parse_object(text.encode())
    except ValueError:
        value = wire.parse_object("".join(text.split()).encode())
    return _parse_members(value)


def _parse_members(value: dict[str, object]) -> Jwe:
    """Read the members of the general or the flattened form; `null` counts as absent."""
    members = {name: wire.decode_base64url(wire.text_value(value.get(name))) for name in _BASE64}
    protected = wire.parse_object(members["protected"]) if members["protected"] else {}
    shared = wire.object_value(value.get("unprotected"))
    entries = wire.list_value(value.get("recipients")) or [value]
    if len(entries) > limits.JWE_RECIPIENTS:
        raise ValueError(f"it has more than {limits.JWE_RECIPIENTS} recipients")
    recipients = []
    for entry in map(wire.object_value, entries):
        own = {**wire.object_value(entry.get("header")), **shared}
        encrypted_key = wire.decode_base64url(wire.text_value(entry.get("encrypted_key")))
        recipients.append(JweRecipient({**own, **protected}, own, encrypted_key))
    return Jwe(value, members, recipients)
