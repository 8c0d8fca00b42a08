"""The part of HTTP/2 (RFC 9113) that is needed to ask a client to connect again: frame boundaries, and GOAWAY."""

from __future__ import annotations

PREFACE_BYTES = 24  # that a client sends before its first frame (§3.4)
_HEADERS = 1  # the type of the frame that begins a call (§6.2)
_HEADER_BYTES = 9  # length (24 bits), type, flags, stream (§4.1)
# §6.8: to close a connection in good order, a server first sends GOAWAY with the greatest stream number and NO_ERROR.
# The client then begins no further calls here; calls that it has begun are still answered.
GO_AWAY = bytes((0, 0, 8, 7, 0)) + bytes(4) + b"\x7f\xff\xff\xff" + bytes(4)


class Frames:
    """Follows the frames of one direction of a connection.

    Args:
        preface: how many bytes come before the first frame.

    Attributes:
        has_begun: whether a whole frame has passed.
        has_headers: whether a frame of the type HEADERS has begun.
    """

    def __init__(self, preface: int = 0) -> None:
        self.has_begun = self.has_headers = False
        self._preface = preface
        self._left = 0  # remaining bytes of the current frame
        self._head = b""

    @property
    def at_boundary(self) -> bool:
        """Whether the next byte begins a frame."""
        return not self._left and not self._head

    def follow(self, data: bytes) -> int:
        """Process the next bytes.

        Returns:
            The first offset at which a frame ends, or -1.
        """
        first, at, size = -1, min(self._preface, len(data)), len(data)
        self._preface -= at
        while at < size:
            if not self._left:
                head = self._head + data[at : at + _HEADER_BYTES - len(self._head)]
                at += len(head) - len(self._head)
                if len(head) < _HEADER_BYTES:
                    self._head = head
                    break
                self._head, self._left = b"", int.from_bytes(head[:3])
                self.has_headers |= head[3] == _HEADERS
            taken = min(self._left, size - at)
            self._left -= taken
            at += taken
            if not self._left:
                self.has_begun = True
                first = at if first < 0 else first
        return first
