"""The server under load."""

from __future__ import annotations

from bench.provider import measure


def test_four_clients_unwrap_two_thousand_times() -> None:
    """A call that fails, or a server that does not end well, is an error of the measurement."""
    assert "2000 unwraps by 4 clients" in measure(2000, 4).what
