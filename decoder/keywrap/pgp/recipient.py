"""A check of an encrypted message against its recipients' certificates: can they open it?"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from decoder import limits
from decoder.errors import KeyFileError
from decoder.keywrap.pgp import packets
from decoder.keywrap.pgp.algorithms import CURVE25519, CURVES, ECDH, OTHER_CURVES, RSA, UNSUPPORTED
from decoder.keywrap.pgp.message import parse_message
from decoder.keywrap.pgp.packets import byte, mpis, part
from decoder.keywrap.pgp.secretkey import fingerprint


def check_message(message: bytes, certificates: Sequence[bytes]) -> list[int]:
    """Check that `unwrap` reads a message, and that each certificate has a key among its recipients.

    Args:
        message: the message, binary.
        certificates: the certificates that it was encrypted to, binary or armoured.

    Returns:
        The sizes of the RSA keys that it is encrypted to, in bits.

    Raises:
        KeyFileError: a certificate has no key that `unwrap` can use: RSA, or ECDH on a known curve.
        ValueError: the message or a certificate is malformed.
    """
    wanted = {session_key.key_id for session_key in parse_message(message).session_keys}
    sizes = []
    for certificate in certificates:
        usable = [bits for key_id, bits in _encryption_keys(certificate) if key_id in wanted]
        if not usable:
            raise KeyFileError("its encryption key is of a type or curve that is not supported (RSA, ECDH)")
        sizes += [bits for bits in usable if bits]
    return sizes


def key_kinds(certificates: Sequence[bytes]) -> str:
    """Return the types of the keys in certificates, for an error."""
    kinds: dict[str, None] = {}
    for certificate in certificates:
        with suppress(ValueError):
            for packet in packets.split(packets.dearmoured(certificate), limits.PGP_PACKETS):
                if packet.tag in (packets.PUBLIC_KEY, packets.PUBLIC_SUBKEY):
                    kinds[_kind(packet.body)] = None
    return ", ".join(kinds)


def _kind(body: bytes) -> str:
    algorithm = byte(body, 5)
    if body[:1] != b"\4":
        return f"version {byte(body, 0)}"
    if algorithm in RSA:
        return f"RSA {_rsa_bits(body)}"
    if algorithm == ECDH:
        curve = part(body, 7, byte(body, 6))
        known = OTHER_CURVES.get(curve)
        return f"ECDH {known.name if known else 'Curve25519' if curve == CURVE25519 else 'of another curve'}"
    return UNSUPPORTED.get(algorithm, str(algorithm))


def _rsa_bits(body: bytes) -> int:
    return int.from_bytes(mpis(body, 6, 1)[0][0]).bit_length()


def _encryption_keys(certificate: bytes) -> list[tuple[bytes, int]]:
    """Return the ID of each key that `unwrap` can use, with the size of an RSA key in bits, or 0 for ECDH."""
    found = []
    for packet in packets.split(packets.dearmoured(certificate), limits.PGP_PACKETS):
        if packet.tag not in (packets.PUBLIC_KEY, packets.PUBLIC_SUBKEY) or packet.body[:1] != b"\4":
            continue
        algorithm = byte(packet.body, 5)
        key_id = fingerprint(packet.body)[-8:]
        if algorithm in RSA:
            found.append((key_id, _rsa_bits(packet.body)))
        elif algorithm == ECDH and part(packet.body, 7, byte(packet.body, 6)) in CURVES:
            found.append((key_id, 0))
    return found
