"""The structures of CMS (RFC 5652, 5083) and X.509 (RFC 5280) that key transport needs; no cryptography here.

Every parser raises ValueError for malformed input, with a reason that does not quote the input.
"""

from __future__ import annotations

from decoder import limits
from decoder.formats.ber import (
    BIT_STRING,
    BOOLEAN,
    CONTEXT,
    EXPLICIT,
    INTEGER,
    OCTET_STRING,
    OID,
    SEQUENCE,
    SET,
    Element,
    Reader,
    der,
    dotted,
    octets,
    one_byte,
    take_octets,
)
from decoder.keys.formats import pem
from decoder.record import Record

ENVELOPED_DATA = bytes.fromhex("2a864886f70d010703")  # 1.2.840.113549.1.7.3
AUTH_ENVELOPED_DATA = bytes.fromhex("2a864886f70d0109100117")  # 1.2.840.113549.1.9.16.1.23
DATA = bytes.fromhex("2a864886f70d010701")  # 1.2.840.113549.1.7.1
RSA_ENCRYPTION = bytes.fromhex("2a864886f70d010101")  # 1.2.840.113549.1.1.1
_SUBJECT_KEY_IDENTIFIER = bytes.fromhex("551d0e")  # 2.5.29.14


class Algorithm(Record):
    """An AlgorithmIdentifier: the contents of its OID, and its parameters or None."""

    oid: bytes
    parameters: Element | None


class Recipient(Record):
    """A KeyTransRecipientInfo (RFC 5652 §6.2.1); `identifier` is one of the two identifiers of its certificate."""

    identifier: bytes
    algorithm: Algorithm
    encrypted_key: bytes


class Envelope(Record):
    """EnvelopedData, or AuthEnvelopedData, which has a MAC.

    Attributes:
        recipients: the recipients with key transport; other kinds are left out.
        algorithm: the content encryption.
        ciphertext: the encrypted content.
        mac: the MAC of AuthEnvelopedData, or None.
        additional_data: the attributes that the MAC covers, too (RFC 5083 §2.2).
    """

    recipients: list[Recipient]
    algorithm: Algorithm
    ciphertext: bytes
    mac: bytes | None
    additional_data: bytes


class Certificate(Record):
    """A certificate's public key, and the two identifiers by which a recipient may name the certificate."""

    issuer_and_serial: bytes
    key_identifier: bytes
    public_key: bytes

    def rsa_numbers(self) -> tuple[int, int]:
        """Return modulus and exponent (RFC 3279 §2.3.1); two zeros for a key of another type."""
        fields = Reader(self.public_key)
        if take_algorithm(fields).oid != RSA_ENCRYPTION:
            return 0, 0
        bits = fields.take(BIT_STRING).value
        key = Reader(Reader(bits[1:]).take(SEQUENCE).value)
        return int.from_bytes(key.take(INTEGER).value), int.from_bytes(key.take(INTEGER).value)


def take_algorithm(reader: Reader) -> Algorithm:
    """Read an AlgorithmIdentifier; its parameters may have any tag."""
    fields = Reader(reader.take(SEQUENCE).value)
    oid = fields.take(OID).value
    parameters = fields.rest(1)
    return Algorithm(oid, parameters[0] if parameters else None)


def parse_envelope(data: bytes) -> Envelope:
    """Parse a ContentInfo with EnvelopedData (RFC 5652 §6.1) or AuthEnvelopedData (RFC 5083 §2.1).

    Args:
        data: BER, or PEM labelled CMS or PKCS7; at most CMS_BYTES.
    """
    if len(data) > limits.CMS_BYTES:
        raise ValueError(f"it is longer than {limits.CMS_BYTES} bytes")
    # What follows the message is ignored, as the reference does: files end with a newline.
    content_info = Reader(Reader(_without_pem(data, "CMS", "PKCS7")).take(SEQUENCE).value)
    content_type = content_info.take(OID).value
    if content_type not in (ENVELOPED_DATA, AUTH_ENVELOPED_DATA):
        raise ValueError(f"its content type is {dotted(content_type)}, which is not enveloped data")
    fields = Reader(Reader(content_info.take(EXPLICIT).value).take(SEQUENCE).value)
    content_info.end()
    fields.take(INTEGER)
    fields.optional(EXPLICIT)  # originatorInfo
    recipients = _recipients(fields.take(SET).value)
    algorithm, ciphertext = _encrypted_content(fields.take(SEQUENCE).value)
    mac, additional_data = None, b""
    if content_type == AUTH_ENVELOPED_DATA:
        attributes = fields.optional(EXPLICIT | 1)
        if attributes:
            additional_data = one_byte(SET) + attributes.encoded[1:]  # attributes are DER even in a BER message
        mac = take_octets(fields)
    fields.optional(EXPLICIT | 1, EXPLICIT | 2)  # unprotected or unauthenticated attributes
    fields.end()
    return Envelope(recipients, algorithm, ciphertext, mac, additional_data)


def build_envelope(recipients: list[Recipient], algorithm: Algorithm, ciphertext: bytes) -> bytes:
    """Build EnvelopedData as the reference does: version 0, recipients by issuer and serial, primitive content."""
    transports = [
        der(
            SEQUENCE,
            der(INTEGER, b"\0"),
            der(SEQUENCE, recipient.identifier[1:]),
            _build_algorithm(recipient.algorithm),
            der(OCTET_STRING, recipient.encrypted_key),
        )
        for recipient in recipients
    ]
    content = der(SEQUENCE, der(OID, DATA), _build_algorithm(algorithm), der(CONTEXT, ciphertext))
    enveloped = der(SEQUENCE, der(INTEGER, b"\0"), der(SET, *sorted(transports)), content)
    return der(SEQUENCE, der(OID, ENVELOPED_DATA), der(EXPLICIT, enveloped))


def parse_certificate(data: bytes) -> Certificate:
    """Parse the parts of an X.509 certificate that CMS refers to (RFC 5280 §4.1); nothing is verified.

    Args:
        data: DER, or PEM, of which the first certificate is taken; at most CERTIFICATE_BYTES.
    """
    if len(data) > limits.CERTIFICATE_BYTES:
        raise ValueError(f"it is longer than {limits.CERTIFICATE_BYTES} bytes")
    fields = Reader(
        Reader(Reader(_without_pem(data, "CERTIFICATE", "X509 CERTIFICATE")).take(SEQUENCE).value).take(SEQUENCE).value
    )
    fields.optional(EXPLICIT)  # version
    serial = fields.take(INTEGER)
    fields.take(SEQUENCE)  # signature algorithm
    issuer = fields.take(SEQUENCE)
    fields.take(SEQUENCE)  # validity
    fields.take(SEQUENCE)  # subject
    public_key = fields.take(SEQUENCE).value
    extensions = [element for element in fields.rest() if element.tag == EXPLICIT | 3]
    key_identifier = _key_identifier(extensions[0].value) if extensions else b""
    return Certificate(one_byte(SEQUENCE) + issuer.encoded + serial.encoded, key_identifier, public_key)


def _without_pem(data: bytes, *labels: str) -> bytes:
    """Return the first PEM block with one of these labels, decoded; other data is returned as it is."""
    if pem.BEGIN not in data:
        return data
    for block in pem.split(data):
        if block.label in labels:
            return block.data()
    raise ValueError(f"it is PEM, but with another label than {' or '.join(labels)}")


def _recipients(value: bytes) -> list[Recipient]:
    elements = Reader(value).rest(limits.CMS_RECIPIENTS)
    return [_recipient(element.value) for element in elements if element.tag == SEQUENCE]


def _recipient(value: bytes) -> Recipient:
    fields = Reader(value)
    fields.take(INTEGER)
    identifier = fields.take(SEQUENCE, CONTEXT, EXPLICIT)
    tag, value = (SEQUENCE, identifier.value) if identifier.tag == SEQUENCE else (CONTEXT, octets(identifier))
    return Recipient(one_byte(tag) + value, take_algorithm(fields), take_octets(fields))


def _encrypted_content(value: bytes) -> tuple[Algorithm, bytes]:
    fields = Reader(value)
    fields.take(OID)
    algorithm = take_algorithm(fields)
    ciphertext = octets(fields.take(CONTEXT, EXPLICIT))
    fields.end()
    return algorithm, ciphertext


def _build_algorithm(algorithm: Algorithm) -> bytes:
    return der(SEQUENCE, der(OID, algorithm.oid), algorithm.parameters.encoded if algorithm.parameters else b"")


def _key_identifier(value: bytes) -> bytes:
    """Return the subject key identifier among the extensions (RFC 5280 §4.2.1.2); b"" if it is absent."""
    for extension in Reader(Reader(value).take(SEQUENCE).value).rest():
        fields = Reader(extension.value)
        if fields.take(OID).value == _SUBJECT_KEY_IDENTIFIER:
            fields.optional(BOOLEAN)  # critical
            return one_byte(CONTEXT) + take_octets(Reader(take_octets(fields)))
    return b""
