"""CMS (RFC 5652, 5083) and X.509 (RFC 5280) structures as far as key transport needs them; no cryptography here.

The reader is our own because no library reads all that has to be read: BER with indefinite lengths (`openssl cms
-stream`), and the primitive SEQUENCE that the reference writes; and `cryptography.x509` takes 72 ms to import.

Every function that reads raises ValueError, with a reason that quotes no input, for what does not fit.
"""

from __future__ import annotations

from decoder import limits
from decoder.formats import wire
from decoder.keys.file import PEM_BEGIN
from decoder.record import Record

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, NULL, OID = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06
SEQUENCE, SET, PRIMITIVE_SEQUENCE = 0x30, 0x31, 0x10
CONTEXT, CONSTRUCTED = 0x80, 0x20
EXPLICIT = CONTEXT | CONSTRUCTED  # the tag of an explicit [0]; or it with n for [n]

ENVELOPED_DATA = bytes.fromhex("2a864886f70d010703")  # 1.2.840.113549.1.7.3
AUTH_ENVELOPED_DATA = bytes.fromhex("2a864886f70d0109100117")  # 1.2.840.113549.1.9.16.1.23
DATA = bytes.fromhex("2a864886f70d010701")  # 1.2.840.113549.1.7.1
RSA_ENCRYPTION = bytes.fromhex("2a864886f70d010101")  # 1.2.840.113549.1.1.1
_SUBJECT_KEY_IDENTIFIER = bytes.fromhex("551d0e")  # 2.5.29.14

_PEM_END = b"-----END "
_DOTTED_BYTES = 32


class Element(Record):
    """One BER element: its tag byte, its contents, and all of it as it came."""

    tag: int
    value: bytes
    encoded: bytes


class Algorithm(Record):
    """An AlgorithmIdentifier: the contents of its OID, and its parameters if there are any."""

    oid: bytes
    parameters: Element | None


class Recipient(Record):
    """A KeyTransRecipientInfo (RFC 5652 §6.2.1); its identifier is one of those of the certificate."""

    identifier: bytes
    algorithm: Algorithm
    encrypted_key: bytes


class Envelope(Record):
    """EnvelopedData, or AuthEnvelopedData, which has a MAC.

    Attributes:
        recipients: those of key transport; other kinds are left out.
        algorithm: of the content.
        ciphertext: the encrypted content.
        mac: that of AuthEnvelopedData, or None.
        additional_data: what the MAC covers besides (RFC 5083 §2.2).
    """

    recipients: list[Recipient]
    algorithm: Algorithm
    ciphertext: bytes
    mac: bytes | None
    additional_data: bytes


class Certificate(Record):
    """What a certificate says of its key: the identifiers that recipients have of it, and the key's own bytes."""

    issuer_and_serial: bytes
    key_identifier: bytes
    public_key: bytes

    def rsa_numbers(self) -> tuple[int, int]:
        """Read modulus and exponent (RFC 3279 §2.3.1), or zeros of a key of another type."""
        fields = Reader(self.public_key)
        if take_algorithm(fields).oid != RSA_ENCRYPTION:
            return 0, 0
        bits = fields.take(BIT_STRING).value
        key = Reader(Reader(bits[1:]).take(SEQUENCE).value)
        return int.from_bytes(key.take(INTEGER).value), int.from_bytes(key.take(INTEGER).value)


class Reader:
    """Take the elements of BER contents one after another (X.690 §8.1)."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, *tags: int) -> Element:
        """Read the next element, which must have one of these tags."""
        tag, start, length = _header(self._data, self._at)
        if tag not in tags:
            raise ValueError(f"it has an element of tag {tag:#04x} where {tags[0]:#04x} belongs")
        if length is None:
            end, following = _end_of_contents(self._data, start)
        else:
            end = following = start + length
        element = Element(tag, self._data[start:end], self._data[self._at : following])
        self._at = following
        return element

    def optional(self, *tags: int) -> Element | None:
        """Read the next element if it has one of these tags."""
        return self.take(*tags) if self._data[self._at : self._at + 1] in map(_byte, tags) else None

    def rest(self, most: int = limits.BER_ELEMENTS) -> list[Element]:
        """Read all that is left, whatever the tags."""
        elements: list[Element] = []
        while self._at < len(self._data):
            if len(elements) == most:
                raise ValueError(f"it has more than {most} elements in one place")
            elements.append(self.take(self._data[self._at]))
        return elements

    def end(self) -> None:
        """Refuse whatever follows."""
        if self._at != len(self._data):
            raise ValueError("it goes on after its end")


def _byte(tag: int) -> bytes:
    return bytes((tag,))


def _header(data: bytes, at: int) -> tuple[int, int, int | None]:
    """Read tag and length; no length means an indefinite one. Contents that are not all there are refused."""
    head = data[at : at + 2]
    if len(head) < 2:
        raise ValueError("it is cut short")
    tag, length = head
    if tag & 0x1F == 0x1F:
        raise ValueError("it has a tag of several bytes")
    start = at + 2
    if length == 0x80:
        if not tag & CONSTRUCTED:
            raise ValueError("it has a primitive element of indefinite length")
        return tag, start, None
    if length > 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[at + 2 : start])
    if start + length > len(data):
        raise ValueError("it is cut short")
    return tag, start, length


def _end_of_contents(data: bytes, at: int) -> tuple[int, int]:
    """Find where contents of indefinite length end, and where the next element starts."""
    depth = 1
    for _ in range(limits.BER_ELEMENTS):
        tag, start, length = _header(data, at)
        if length is None:
            depth += 1
        elif (tag, length) == (0, 0):
            depth -= 1
        if depth == 0:
            return at, start
        if depth > limits.BER_DEPTH:
            raise ValueError(f"it has more than {limits.BER_DEPTH} indefinite lengths within each other")
        at = start + (length or 0)
    raise ValueError(f"it has more than {limits.BER_ELEMENTS} elements in one place")


def octets(element: Element) -> bytes:
    """Read an octet string, primitive or in primitive parts (X.690 §8.7)."""
    if not element.tag & CONSTRUCTED:
        return element.value
    parts = Reader(element.value).rest()
    if any(part.tag != OCTET_STRING for part in parts):
        raise ValueError("it has a string in parts that are no octet strings")
    return b"".join(part.value for part in parts)


def take_octets(reader: Reader) -> bytes:
    """Read an OCTET STRING."""
    return octets(reader.take(OCTET_STRING, OCTET_STRING | CONSTRUCTED))


def take_algorithm(reader: Reader) -> Algorithm:
    """Read an AlgorithmIdentifier; `PRIMITIVE_SEQUENCE` stands for the parameters that the reference writes."""
    fields = Reader(reader.take(SEQUENCE).value)
    oid = fields.take(OID).value
    parameters = fields.rest(1)
    return Algorithm(oid, parameters[0] if parameters else None)


def dotted(oid: bytes) -> str:
    """Write an OID for a message."""
    if not oid or oid[-1] & 0x80 or len(oid) > _DOTTED_BYTES:
        return "malformed"
    arcs = [0]
    for byte in oid:
        arcs[-1] = arcs[-1] << 7 | byte & 0x7F
        if not byte & 0x80:
            arcs.append(0)
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, [first, arcs[0] - 40 * first, *arcs[1:-1]]))


def parse_envelope(data: bytes) -> Envelope:
    """Parse a ContentInfo with EnvelopedData (RFC 5652 §6.1) or AuthEnvelopedData (RFC 5083 §2.1).

    Args:
        data: BER, or PEM labelled CMS or PKCS7; at most CMS_BYTES.
    """
    if len(data) > limits.CMS_BYTES:
        raise ValueError(f"it is longer than {limits.CMS_BYTES} bytes")
    outermost = Reader(_without_pem(data, b"CMS", b"PKCS7"))
    content_info = Reader(outermost.take(SEQUENCE).value)
    outermost.end()
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
            additional_data = _byte(SET) + attributes.encoded[1:]  # they are DER whatever the rest is
        mac = take_octets(fields)
    fields.optional(EXPLICIT | 1, EXPLICIT | 2)  # attributes that nothing protects
    fields.end()
    return Envelope(recipients, algorithm, ciphertext, mac, additional_data)


def build_envelope(recipients: list[Recipient], algorithm: Algorithm, ciphertext: bytes) -> bytes:
    """Write EnvelopedData as the reference does: version 0, recipients by issuer and serial, primitive content."""
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


def der(tag: int, *contents: bytes) -> bytes:
    """Write an element."""
    value = b"".join(contents)
    size = len(value).to_bytes(max(1, (len(value).bit_length() + 7) // 8))
    return _byte(tag) + (size if len(value) < 0x80 else _byte(0x80 | len(size)) + size) + value


def parse_certificate(data: bytes) -> Certificate:
    """Parse what CMS refers to in one X.509 certificate (RFC 5280 §4.1); nothing is verified.

    Args:
        data: DER, or PEM, of which the first certificate counts; at most CERTIFICATE_BYTES.
    """
    if len(data) > limits.CERTIFICATE_BYTES:
        raise ValueError(f"it is longer than {limits.CERTIFICATE_BYTES} bytes")
    fields = Reader(
        Reader(Reader(_without_pem(data, b"CERTIFICATE", b"X509 CERTIFICATE")).take(SEQUENCE).value)
        .take(SEQUENCE)
        .value
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
    return Certificate(_byte(SEQUENCE) + issuer.encoded + serial.encoded, key_identifier, public_key)


def _without_pem(data: bytes, *labels: bytes) -> bytes:
    if PEM_BEGIN not in data:
        return data
    for label in labels:
        body, end, _ = data.partition(PEM_BEGIN + label + b"-----")[2].partition(_PEM_END + label + b"-----")
        if end:
            return wire.decode_base64(body.translate(None, b" \t\r\n").decode("ascii", "replace"))
    raise ValueError("it is PEM, but with another label than " + b" or ".join(labels).decode())


def _recipients(value: bytes) -> list[Recipient]:
    elements = Reader(value).rest(limits.CMS_RECIPIENTS)
    return [_recipient(element.value) for element in elements if element.tag == SEQUENCE]


def _recipient(value: bytes) -> Recipient:
    fields = Reader(value)
    fields.take(INTEGER)
    identifier = fields.take(SEQUENCE, CONTEXT, EXPLICIT)
    tag, value = (SEQUENCE, identifier.value) if identifier.tag == SEQUENCE else (CONTEXT, octets(identifier))
    return Recipient(_byte(tag) + value, take_algorithm(fields), take_octets(fields))


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
    """Find the subject key identifier among the extensions (RFC 5280 §4.2.1.2), or nothing."""
    for extension in Reader(Reader(value).take(SEQUENCE).value).rest():
        fields = Reader(extension.value)
        if fields.take(OID).value == _SUBJECT_KEY_IDENTIFIER:
            fields.optional(BOOLEAN)  # critical
            return _byte(CONTEXT) + take_octets(Reader(take_octets(fields)))
    return b""
