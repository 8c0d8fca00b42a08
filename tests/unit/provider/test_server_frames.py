"""The frames of HTTP/2 that a server follows on its connections."""

from __future__ import annotations

from decoder.provider.server.connections.http2 import GO_AWAY, PREFACE_BYTES, Frames


def test_the_ends_of_frames() -> None:
    settings, data = bytes(3) + b"\x04\x00" + bytes(4), b"\x00\x00\x05\x00\x00" + bytes(4) + b"hello"
    whole = Frames()
    assert not whole.has_begun
    assert whole.follow(settings + data) == len(settings)
    assert whole.at_boundary
    assert whole.has_begun
    for cut in range(1, len(data)):
        parts = Frames()
        assert parts.follow(data[:cut]) == -1
        assert not parts.at_boundary
        assert parts.follow(data[cut:] + settings) == len(data) - cut
        assert parts.at_boundary
    assert len(GO_AWAY) == 9 + 8


def test_the_first_call_of_a_client() -> None:
    preface, settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", bytes(3) + b"\x04\x00" + bytes(4)
    headers = b"\x00\x00\x01\x01\x05\x00\x00\x00\x01" + b"\x82"
    whole = Frames(PREFACE_BYTES)
    whole.follow(preface + settings)
    assert (whole.has_begun, whole.has_headers) == (True, False)
    whole.follow(headers)
    assert whole.has_headers
    data = preface + settings + headers
    for cut in range(1, len(data)):
        parts = Frames(PREFACE_BYTES)
        parts.follow(data[:cut])
        assert parts.has_headers == (cut >= len(data) - 1)
        parts.follow(data[cut:])
        assert parts.has_headers
