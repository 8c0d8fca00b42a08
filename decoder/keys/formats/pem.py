"""PEM (RFC 7468, RFC 1421): blocks in a file, and the bytes in them.

Labels are not trusted: tools write PKCS#8 as `RSA PRIVATE KEY` and PKCS#1 as `PRIVATE KEY`.
Blank lines and white space around lines are ignored, as Go's reader does.
"""

from __future__ import annotations

from decoder.formats import wire
from decoder.record import Record

BEGIN = b"-----BEGIN "
_END = b"-----END "
_DASHES = b"-----"


class PemBlock(Record):
    """One block.

    Attributes:
        label: the words after BEGIN.
        headers: the lines `Name: value` before the base64 (RFC 1421 §4.4), which only encrypted legacy keys have.
        text: the base64, without white space.
    """

    label: str
    headers: dict[str, str]
    text: str

    def data(self) -> bytes:
        """Decode the base64.

        Raises:
            ValueError: it is not base64, or the block does not end.
        """
        if not self.text:
            raise ValueError("a PEM block is empty or does not end")
        return wire.decode_base64(self.text)


def split(data: bytes) -> list[PemBlock]:
    """Return the blocks in a file, which may have any text between them; a block without an end has no text."""
    return [_block(part) for part in data.split(BEGIN)[1:]]


def _block(part: bytes) -> PemBlock:
    label, _, rest = part.partition(_DASHES)
    body, end, _ = rest.partition(_END)
    headers: dict[str, str] = {}
    text = []
    for line in body.decode("ascii", "replace").split("\n") if end else ():
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip()] = value.strip()
        else:
            text += line.split()
    return PemBlock(label.decode("ascii", "replace").strip(), headers, "".join(text))
