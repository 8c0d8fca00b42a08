"""The server under load."""

from __future__ import annotations

from bench.ours import keyprovider_load


def test_four_clients_unwrap_two_thousand_times() -> None:
    """A call that fails, or a server that does not end well, is an error of the measurement."""
    (row,) = keyprovider_load(2000, 4)
    assert "2000 unwraps by 4 clients" in row.what
