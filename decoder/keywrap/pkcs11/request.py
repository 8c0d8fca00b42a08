"""Requests of `token` to its child process, and the replies: one line of JSON each, bytes in base64."""

from __future__ import annotations

from typing import TypedDict

Reply = dict[str, object]


class Request(TypedDict):
    """One request.

    `blobs` are pairs of a hash name and a wrapped key; `signs` is base64 of what to sign. Without them the request is
    for the public key, or with `finds` only for whether the key exists.
    `wrong_pin_at` are the tokens that have already refused this PIN.
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
