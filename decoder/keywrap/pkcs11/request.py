"""Requests of `token` to its child process, and the replies: one line of JSON each, bytes in base64."""

from __future__ import annotations

from typing import TypedDict

Reply = dict[str, object]


class Request(TypedDict):
    """One request: decrypt `blobs`, or sign `signs`, or with `finds` find the key; otherwise read the public key.

    `blobs` are pairs of a hash name and a ciphertext in base64. `signs` is the data to sign, in base64. `wrong_pin_at`
    lists the tokens that have already refused this PIN.
    """

    module: str
    environment: dict[str, str]
    token: dict[str, str]
    label: str | None
    key_id: str | None
    pin: str | None
    wrong_pin_at: list[str]
    blobs: list[tuple[str, str]]
    finds: bool
    signs: str
