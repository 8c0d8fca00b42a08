"""Parsed key files: the zygote holds them, its workers inherit them, and they are dropped when the file changes."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, cast

import msgpack  # type: ignore[import-untyped]
from cryptography.exceptions import InternalError

from decoder import limits
from decoder.agent import messages
from decoder.errors import KeyFileError
from decoder.keys.privatekey import PrivateKey
from decoder.node.filestate import state_of
from decoder.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from decoder.agent.notices import Notices
    from decoder.keys.kept import Parsed
    from decoder.keys.privatekey import PrivateKeyObject

    Value = PrivateKeyObject | list[bytes]


class _Kept(Record):
    value: Value
    file: str
    state: tuple[int, ...]


class ParsedKeys:
    """Up to AGENT_PARSED_KEYS parsed keys; further ones are parsed again for each layer.

    A key is looked up by everything that it was parsed from, including its password. A layer must have read the file
    and the password itself to get the key. A changed key is therefore never used: dropping it only frees memory.
    """

    def __init__(self) -> None:
        self._kept: dict[bytes, _Kept] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self) -> None:
        """Drop all keys."""
        self._kept.clear()

    def add(self, notice: bytes) -> bool:
        """Keep a key that a worker sent with `Notices.parsed`; return whether it was kept just now."""
        identity, file, packed = msgpack.unpackb(notice)
        if identity in self._kept or len(self._kept) >= limits.AGENT_PARSED_KEYS:
            return False
        with suppress(KeyFileError):
            self._kept[identity] = _Kept(_unpack(packed), file, state_of(file))
        return identity in self._kept

    def drop_changed(self) -> bool:
        """Drop the keys whose files have changed or are gone; return whether there was such a key."""
        changed = [identity for identity, kept in self._kept.items() if state_of(kept.file) != kept.state]
        for identity in changed:
            del self._kept[identity]
        return bool(changed)

    def parsed(self, notices: Notices, file: str, sources: list[bytes], parse: Callable[[], Parsed]) -> Parsed:
        """Return the key that was parsed from the same sources before, or parse it and report it to the zygote.

        Args:
            notices: the channel to the zygote.
            file: the path of the key file.
            sources: everything that the key is parsed from: content of files, and passwords.
            parse: parses the key; what it raises is passed on.
        """
        identity = messages.identity(sources)
        if identity in self._kept:
            return cast("Parsed", self._kept[identity].value)
        parsed = parse()
        with suppress(ValueError, InternalError):  # OpenSSL cannot serialize an inconsistent key: each layer parses it
            packed = _pack(cast("Value", parsed))
            notices.parsed(cast("bytes", msgpack.packb([identity, os.path.abspath(file), packed])))
        return parsed


def _pack(value: Value) -> bytes | list[bytes]:
    """Serialize a private key as PKCS#8; the secret numbers of an OpenPGP key are bytes already."""
    if isinstance(value, list):
        return value
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat  # 40 ms at worst

    return value.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def _unpack(packed: bytes | list[bytes]) -> Value:
    return packed if isinstance(packed, list) else PrivateKey("", "der", packed, b"").load()
