"""The names of an OpenPGP message's recipients: key IDs, or nothing for hidden ones (RFC 9580 §5.1)."""

from __future__ import annotations

from collections.abc import Collection

from decoder import limits
from decoder.keywrap.pgp import packets
from decoder.keywrap.pgp.sessionkey import parse_session_key
from decoder.keywrap.recipient import KeyName

_HIDDEN = KeyName("hidden recipient", is_unique=False)


def key_names(message: bytes) -> list[KeyName]:
    """Name the recipients of a message that `message.parse_message` has checked."""
    names = []
    for packet in packets.split_message(message, limits.PGP_PACKETS):
        if _is_session_key(packet):
            key_id = parse_session_key(packet.body).key_id
            names.append(KeyName(key_id.hex().upper(), is_unique=True) if any(key_id) else _HIDDEN)
    return names


def keep_recipients(message: bytes, numbers: Collection[int]) -> bytes:
    """Return the message with only the recipients in `numbers`, which are positions in the result of `key_names`."""
    left = []
    number = 0
    for packet in packets.split_message(message, limits.PGP_PACKETS):
        is_kept = True
        if _is_session_key(packet):
            is_kept, number = number in numbers, number + 1
        if is_kept:
            left.append(packet.raw)
    return b"".join(left)


def _is_session_key(packet: packets.Packet) -> bool:
    return packet.tag == packets.PKESK and packet.body[:1] == b"\3"
