"""The names of CMS recipients: issuer and serial number, or the key identifier of a certificate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from decoder import limits
from decoder.formats import ber
from decoder.keys.formats import pem
from decoder.keywrap.pkcs7 import cms
from decoder.keywrap.recipient import KeyName, is_whole, shown

# RFC 4514 §3, and the e-mail address, which old certificates have in their names.
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

_RANDOM_SERIAL_BYTES = 8  # what public authorities must draw (CA/Browser Forum, Baseline Requirements §7.1)


def key_name(identifier: bytes, subjects: Mapping[bytes, str]) -> KeyName:
    """Name a recipient.

    Args:
        identifier: the field of a `cms.Recipient`.
        subjects: the names of known certificates, by the same identifiers.

    Raises:
        ValueError: the identifier is malformed.
    """
    text = subjects.get(identifier) or _identifier_name(identifier)
    return KeyName(text, is_whole(text) and _is_random(identifier))


def _is_random(identifier: bytes) -> bool:
    """Check that no other certificate has this name: two small authorities may share a name, and both count from 1."""
    if identifier[0] != ber.SEQUENCE:
        return True
    fields = ber.Reader(identifier[1:])
    fields.take(ber.SEQUENCE)
    return len(fields.take(ber.INTEGER).value) >= _RANDOM_SERIAL_BYTES


def subjects_of(certificates: Sequence[bytes]) -> dict[bytes, str]:
    """Return names for certificates, by both of their identifiers; certificates that cannot be parsed are left out.

    Args:
        certificates: PEM or DER, one each.
    """
    if not certificates:
        return {}
    from cryptography.x509 import load_der_x509_certificate, load_pem_x509_certificate

    from decoder.formats.certificates import UNREADABLE

    subjects = {}
    for data in certificates:
        try:
            identifiers = cms.parse_certificate(data)
            load = load_pem_x509_certificate if pem.BEGIN in data else load_der_x509_certificate
            certificate = load(data)
            name = f"subject {shown(certificate.subject.rfc4514_string())} serial {certificate.serial_number:x}"
        except UNREADABLE:
            continue
        subjects[identifiers.issuer_and_serial] = name
        if identifiers.key_identifier:
            subjects[identifiers.key_identifier] = name
    return subjects


def _identifier_name(identifier: bytes) -> str:
    """Return issuer and serial number, or the subject key identifier, as text (RFC 5652 §6.2.1)."""
    if identifier[0] != ber.SEQUENCE:
        return f"key identifier {identifier[1:].hex()[: limits.QUOTED_CHARACTERS]}"
    fields = ber.Reader(identifier[1:])
    issuer = fields.take(ber.SEQUENCE)
    serial = fields.take(ber.INTEGER).value
    return f"issuer {_distinguished_name(issuer)} serial {int.from_bytes(serial[: limits.QUOTED_CHARACTERS]):x}"


def _distinguished_name(name: ber.Element) -> str:
    """Return a name as readable text, in the order of RFC 4514 §2.1."""
    parts = []
    for relative in reversed(ber.Reader(name.value).rest(limits.CMS_RECIPIENTS)):
        for attribute in ber.Reader(relative.value).rest(limits.CMS_RECIPIENTS):
            fields = ber.Reader(attribute.value)
            oid = fields.take(ber.OID).value
            values = [element.value.decode(errors="replace") for element in fields.rest(1)]
            parts.append(f"{_ATTRIBUTES.get(oid) or ber.dotted(oid)}={''.join(values)}")
    return shown(",".join(parts)) or "(none)"
