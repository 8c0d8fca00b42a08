"""What can go wrong at a key service."""

from __future__ import annotations


class ProviderError(Exception):
    """A key service did not do what it was asked; the text says why, and holds no secret and no credential."""
