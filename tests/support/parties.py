"""Who can open an image: recipients and the options that decrypt."""

from __future__ import annotations

from typing import NamedTuple

EMAIL = "images@example.com"


class Party(NamedTuple):
    """Who can open: the recipient to encrypt to, and per program the options that decrypt."""

    recipient: str
    ours: list[str]
    skopeo: list[str]
    parameters: dict[str, list[bytes]]
