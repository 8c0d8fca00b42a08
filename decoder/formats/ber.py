"""A reader of BER (X.690), one element after another, and a writer of DER.

The reader exists because no library reads both BER with indefinite lengths (`openssl cms -stream`) and the primitive
SEQUENCE that the reference writes, and because `cryptography.x509` takes 72 ms to import.

Every parser raises ValueError for malformed input, with a reason that does not quote the input.
"""

from __future__ import annotations

from decoder import limits
from decoder.record import Record

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, NULL, OID = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06
SEQUENCE, SET, PRIMITIVE_SEQUENCE = 0x30, 0x31, 0x10
CONTEXT, CONSTRUCTED = 0x80, 0x20
EXPLICIT = CONTEXT | CONSTRUCTED  # the tag of an explicit [0]; or it with n for [n]


class Element(Record):
    """One BER element: its tag byte, its contents, and the whole element as it was encoded."""

    tag: int
    value: bytes
    encoded: bytes


class Reader:
    """Read the elements of BER contents one after another (X.690 §8.1)."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, *tags: int) -> Element:
        """Read the next element.

        Args:
            tags: the tags that it may have; a message names the first of them.

        Raises:
            ValueError: it has another tag, or is malformed.
        """
        tag, start, length = _header(self._data, self._at)
        if tag not in tags:
            raise ValueError(f"it has an element of tag {tag:#04x} instead of {tags[0]:#04x}")
        if length is None:
            end, following = _end_of_contents(self._data, start)
        else:
            end = following = start + length
        element = Element(tag, self._data[start:end], self._data[self._at : following])
        self._at = following
        return element

    def optional(self, *tags: int) -> Element | None:
        """Read the next element if it has one of these tags; otherwise return None."""
        return self.take(*tags) if self._data[self._at : self._at + 1] in map(one_byte, tags) else None

    def rest(self, most: int = limits.BER_ELEMENTS) -> list[Element]:
        """Read all remaining elements, whatever their tags.

        Raises:
            ValueError: there are more than `most`, or one is malformed.
        """
        elements: list[Element] = []
        while self._at < len(self._data):
            if len(elements) == most:
                raise ValueError(f"it has more than {most} elements in one place")
            elements.append(self.take(self._data[self._at]))
        return elements

    def end(self) -> None:
        """Check that nothing follows.

        Raises:
            ValueError: something follows.
        """
        if self._at != len(self._data):
            raise ValueError("more data follows its end")


def one_byte(tag: int) -> bytes:
    """Return a tag as bytes."""
    return bytes((tag,))


def _header(data: bytes, at: int) -> tuple[int, int, int | None]:
    """Read the tag, the start of the contents and their length, which is None if it is indefinite.

    Raises:
        ValueError: the header is malformed, or the contents are cut short.
    """
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
    """Return where contents of indefinite length end, and where the next element starts (X.690 §8.1.5)."""
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
    """Return the value of an octet string that is primitive or consists of primitive parts (X.690 §8.7)."""
    if not element.tag & CONSTRUCTED:
        return element.value
    parts = Reader(element.value).rest()
    if any(part.tag != OCTET_STRING for part in parts):
        raise ValueError("it has a string in parts that are not octet strings")
    return b"".join(part.value for part in parts)


def take_octets(reader: Reader) -> bytes:
    """Read the next element, which must be an OCTET STRING, and return its value."""
    return octets(reader.take(OCTET_STRING, OCTET_STRING | CONSTRUCTED))


def dotted(oid: bytes) -> str:
    """Return an OID in dotted form for a message; `malformed` if it is not one of at most OID_BYTES."""
    if not oid or oid[-1] & 0x80 or len(oid) > limits.OID_BYTES:
        return "malformed"
    arcs = [0]
    for byte in oid:
        arcs[-1] = arcs[-1] << 7 | byte & 0x7F
        if not byte & 0x80:
            arcs.append(0)
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, [first, arcs[0] - 40 * first, *arcs[1:-1]]))


def der(tag: int, *contents: bytes) -> bytes:
    """Build a DER element from its tag byte and its contents, which are joined."""
    value = b"".join(contents)
    size = len(value).to_bytes(max(1, (len(value).bit_length() + 7) // 8))
    return one_byte(tag) + (size if len(value) < 0x80 else one_byte(0x80 | len(size)) + size) + value
