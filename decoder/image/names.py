"""Recipients of encrypted layers by name, as far as wrapped keys tell, and wrapped keys without some of them.

No wrapped key is opened here. What authenticates it covers none of its recipients (RFC 7516 §5.1, RFC 5652 §6,
RFC 9580 §5.1), so each can be taken out; what is left opens as before.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from decoder import keywrap, limits
from decoder.errors import WrappedKeyError, quoted
from decoder.formats import wire
from decoder.keywrap.pgp import packets
from decoder.keywrap.pgp.message import parse_message
from decoder.keywrap.pgp.sessionkey import parse_session_key
from decoder.keywrap.pkcs7 import cms
from decoder.layer import annotations as layer

_HIDDEN = "hidden recipient"
_SIZE = re.compile(r"\d+ bytes")
_NAME_MEMBERS = ("key_url", "kid", "key_id", "keyid", "kbs_uri")
# RFC 4514 §3, and the e-mail address that old certificates have in their names.
_ATTRIBUTES = {
    bytes.fromhex(oid): name
    for oid, name in {
        "550403": "CN",
        "550407": "L",
        "550408": "ST",
        "55040a": "O",
        "55040b": "OU",
        "550406": "C",
        "550409": "STREET",
        "0992268993f22c640119": "DC",
        "0992268993f22c640101": "UID",
        "2a864886f70d010901": "emailAddress",
    }.items()
}

Subjects = Mapping[bytes, str]
"""Names of certificates that are known, by their identifiers in CMS."""
Keep = Callable[[str], bool]
Identity = tuple[str, str]
"""A scheme, and a name that stands for one key alone."""


class Recipient(NamedTuple):
    """Somebody who can open a wrapped key.

    Attributes:
        scheme: `jwe`, …, or `provider.NAME`.
        item: the number of the wrapped key in its annotation.
        name: what the wrapped key tells: key ID, certificate, URL of a key, or its algorithm alone.
    """

    scheme: str
    item: int
    name: str

    def __str__(self) -> str:
        return f"{self.scheme}: {self.name}"


def recipients_of(annotations: Mapping[str, str], subjects: Subjects) -> list[Recipient]:
    """Name everybody who can open a layer; a malformed wrapped key is one recipient, and its name says so.

    Raises:
        LayerError: there are more than WRAPPED_KEYS.
    """
    found = []
    for item in layer.wrapped_keys(annotations):
        try:
            names, _ = _sifted(item, subjects, lambda _name: True)
        except (ValueError, WrappedKeyError) as error:
            names = [f"malformed: {error}"]
        found += [Recipient(item.scheme, item.number, name) for name in names]
    return found


def identities(annotations: Mapping[str, str]) -> frozenset[Identity]:
    """Tell whom a layer is wrapped to, as far as wrapped keys have names that stand for one key each.

    Raises:
        LayerError: there are more than WRAPPED_KEYS.
    """
    return frozenset((each.scheme, each.name) for each in recipients_of(annotations, {}) if _identifies(each))


def without(
    annotations: Mapping[str, str], subjects: Subjects, is_removed: Callable[[Recipient], bool]
) -> dict[str, str]:
    """Take recipients out of the wrapped keys of a layer.

    Raises:
        LayerError: there are more than WRAPPED_KEYS.
        WrappedKeyError: a wrapped key is for others as well, and in a form that cannot be written without one.
    """
    left: dict[str, list[str]] = {}
    for item in layer.wrapped_keys(annotations):
        left.setdefault(item.annotation, [])
        text = _item_without(item, subjects, is_removed)
        if text:
            left[item.annotation].append(text)
    kept = {name: text for name, text in annotations.items() if name not in left}
    return {**kept, **{name: ",".join(texts) for name, texts in left.items() if texts}}


def subjects_of(certificates: Sequence[bytes]) -> dict[bytes, str]:
    """Name certificates by their subjects; what cannot be parsed has no name."""
    from cryptography.x509 import load_der_x509_certificate, load_pem_x509_certificate

    from decoder.keys.file import PEM_BEGIN

    subjects = {}
    for data in certificates:
        try:
            identifiers = cms.parse_certificate(data)
            load = load_pem_x509_certificate if PEM_BEGIN in data else load_der_x509_certificate
            certificate = load(data)
            name = f"subject {_shown(certificate.subject.rfc4514_string())} serial {certificate.serial_number:x}"
        except ValueError:
            continue
        subjects[identifiers.issuer_and_serial] = name
        if identifiers.key_identifier:
            subjects[identifiers.key_identifier] = name
    return subjects


def _identifies(recipient: Recipient) -> bool:
    """Tell whether a name, as `_sifted` makes it, stands for one key alone; what was cut short does not."""
    name = recipient.name
    if name.startswith("malformed: ") or "…" in name or recipient.scheme == "pkcs11":
        return False
    if recipient.scheme == "jwe":
        return name.startswith("kid ")
    if recipient.scheme == "pgp":
        return name != _HIDDEN
    return not _SIZE.fullmatch(name)


def _item_without(item: layer.WrappedKey, subjects: Subjects, is_removed: Callable[[Recipient], bool]) -> str:
    """Return the text of a wrapped key without some recipients, "" if nobody is left."""
    named: list[Recipient] = []

    def keep(name: str) -> bool:
        named.append(Recipient(item.scheme, item.number, name))
        return not is_removed(named[-1])

    try:
        _, rewrite = _sifted(item, subjects, keep)
    except (ValueError, WrappedKeyError) as error:
        return "" if is_removed(Recipient(item.scheme, item.number, f"malformed: {error}")) else item.text
    kept = [not is_removed(recipient) for recipient in named]
    if all(kept):
        return item.text
    return wire.encode_base64(rewrite()) if any(kept) else ""


def _sifted(item: layer.WrappedKey, subjects: Subjects, keep: Keep) -> tuple[list[str], Callable[[], bytes]]:
    """Return the names in a wrapped key, and what writes it with those recipients alone that `keep` wants."""
    wrapped = wire.decode_base64(item.text)
    if item.scheme == "jwe":
        return _jwe(wrapped, keep)
    if item.scheme == "pkcs7":
        return _pkcs7(wrapped, subjects, keep)
    if item.scheme == "pgp":
        return _pgp(wrapped, keep)
    if item.scheme == "pkcs11":
        return _pkcs11(wrapped, keep)
    name = _provider_name(wrapped)
    keep(name)
    return [name], lambda: wrapped


def _jwe(wrapped: bytes, keep: Keep) -> tuple[list[str], Callable[[], bytes]]:
    """RFC 7516 §7; only the general JSON form has several recipients."""
    if len(wrapped) > limits.JWE_BYTES:
        raise ValueError(f"longer than {limits.JWE_BYTES} bytes")
    if wrapped.lstrip()[:1] != b"{":
        value: dict[str, object] = {"protected": wrapped.decode("ascii", "replace").partition(".")[0]}
    else:
        value = wire.parse_object(wrapped)
    protected_text = wire.text_value(value.get("protected"))
    protected = wire.parse_object(wire.decode_base64url(protected_text)) if protected_text else {}
    shared = {**wire.object_value(value.get("unprotected")), **protected}
    entries = [wire.object_value(entry) for entry in wire.list_value(value.get("recipients", [value]))]
    if len(entries) > limits.JWE_RECIPIENTS:
        raise ValueError(f"more than {limits.JWE_RECIPIENTS} recipients")
    headers = [{**wire.object_value(entry.get("header")), **shared} for entry in entries]
    names = [_jwe_name(header) for header in headers]
    left = [entry for entry, name in zip(entries, names, strict=True) if keep(name)]
    return names, lambda: json.dumps({**value, "recipients": left}, separators=(",", ":")).encode()


def _jwe_name(header: Mapping[str, object]) -> str:
    parts = []
    if isinstance(header.get("kid"), str) and header["kid"]:
        parts.append(f"kid {_shown(header['kid'])}")
    parts.append(_shown(header.get("alg", "no algorithm")))
    epk = header.get("epk")
    if isinstance(epk, dict) and isinstance(epk.get("crv"), str):
        parts.append(_shown(epk["crv"]))
    return " ".join(parts)


def _pkcs7(wrapped: bytes, subjects: Subjects, keep: Keep) -> tuple[list[str], Callable[[], bytes]]:
    envelope = cms.parse_envelope(wrapped)
    names = [subjects.get(each.identifier) or _certificate_name(each.identifier) for each in envelope.recipients]
    left = [each for each, name in zip(envelope.recipients, names, strict=True) if keep(name)]

    def rewrite() -> bytes:
        if envelope.mac is not None or any(each.identifier[0] != cms.SEQUENCE for each in left):
            raise WrappedKeyError("this PKCS#7 wrapped key is for others as well, and of a form that is not rewritten")
        return cms.build_envelope(left, envelope.algorithm, envelope.ciphertext)

    return names, rewrite


def _certificate_name(identifier: bytes) -> str:
    """Write issuer and serial number, or the subject key identifier (RFC 5652 §6.2.1)."""
    if identifier[0] != cms.SEQUENCE:
        return f"key identifier {identifier[1:].hex()[: limits.QUOTED_CHARACTERS]}"
    fields = cms.Reader(identifier[1:])
    issuer = fields.take(cms.SEQUENCE)
    serial = fields.take(cms.INTEGER).value
    return f"issuer {_distinguished_name(issuer)} serial {int.from_bytes(serial[: limits.QUOTED_CHARACTERS]):x}"


def _distinguished_name(name: cms.Element) -> str:
    """Write a name in the order of RFC 4514 §2.1, for people to read."""
    parts = []
    for relative in reversed(cms.Reader(name.value).rest(limits.CMS_RECIPIENTS)):
        for attribute in cms.Reader(relative.value).rest(limits.CMS_RECIPIENTS):
            fields = cms.Reader(attribute.value)
            oid = fields.take(cms.OID).value
            values = [element.value.decode(errors="replace") for element in fields.rest(1)]
            parts.append(f"{_ATTRIBUTES.get(oid) or cms.dotted(oid)}={''.join(values)}")
    return _shown(",".join(parts)) or "(none)"


def _pgp(wrapped: bytes, keep: Keep) -> tuple[list[str], Callable[[], bytes]]:
    if len(wrapped) > limits.PGP_BYTES:
        raise ValueError(f"longer than {limits.PGP_BYTES} bytes")
    parse_message(wrapped)
    names, left = [], []
    for packet in packets.split(wrapped, limits.PGP_PACKETS):
        if packet.tag == packets.PKESK and packet.body[:1] == b"\3":
            key_id = parse_session_key(packet.body).key_id
            names.append(key_id.hex().upper() if any(key_id) else _HIDDEN)
            if not keep(names[-1]):
                continue
        left.append(packet.raw)
    return names, lambda: b"".join(left)


def _pkcs11(wrapped: bytes, keep: Keep) -> tuple[list[str], Callable[[], bytes]]:
    if len(wrapped) > limits.PKCS11_BYTES:
        raise ValueError(f"longer than {limits.PKCS11_BYTES} bytes")
    value = wire.parse_object(wrapped)
    entries = [wire.object_value(entry) for entry in wire.list_value(value.get("recipients"))]
    if len(entries) > limits.PKCS11_RECIPIENTS:
        raise ValueError(f"more than {limits.PKCS11_RECIPIENTS} recipients")
    names = []
    for entry in entries:
        bits = 8 * len(wire.bytes_value(entry.get("blob")))
        names.append(f"RSA {bits} OAEP {_shown(entry.get('hash') or 'sha1')}")
    left = [entry for entry, name in zip(entries, names, strict=True) if keep(name)]
    return names, lambda: json.dumps({**value, "recipients": left}, separators=(",", ":")).encode()


def _provider_name(wrapped: bytes) -> str:
    """Take what tells the key from the JSON that most keyproviders write."""
    try:
        value = wire.parse_object(wrapped)
    except ValueError:
        return f"{len(wrapped)} bytes"
    for member in _NAME_MEMBERS:
        if isinstance(value.get(member), str) and value[member]:
            return _shown(value[member])
    return f"{len(wrapped)} bytes"


def _shown(text: object) -> str:
    """Make untrusted text printable, within QUOTED_CHARACTERS."""
    return quoted(text)[1:].removesuffix("'").removesuffix('"')


def selector(text: str) -> Callable[[Recipient], bool]:
    """Make what --remove-recipient says into a test: `SCHEME`, `SCHEME:NAME`, with `provider:NAME[:KEY]` too.

    NAME is what `layerinfo` prints of a recipient, or a word of it, such as a key ID.
    """
    scheme, _, name = text.partition(":")
    if scheme == "provider":
        provider, _, name = name.partition(":")
        scheme = keywrap.PROVIDER_PREFIX + provider
    name = name.lower()

    def is_removed(recipient: Recipient) -> bool:
        its = recipient.name.lower()
        return recipient.scheme == scheme and (not name or name == its or name in its.split())

    return is_removed
