"""The server under load."""

from __future__ import annotations

from bench import decoders, ours


def test_four_clients_unwrap_about_two_thousand_times() -> None:
    """A call that fails, or a server that does not end well, is an error of the measurement."""
    (row,) = ours.keyprovider({}, decoders.Extent(0, 15))
    assert "1980 unwraps by 4 clients" in row[0]
