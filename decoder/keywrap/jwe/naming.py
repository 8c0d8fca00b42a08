"""How a JWE names its recipients."""

from __future__ import annotations

from collections.abc import Mapping

from decoder.keywrap.recipient import KeyName, is_whole, shown


def key_name(header: Mapping[str, object]) -> KeyName:
    """Name a recipient by its joined header: key ID, key algorithm and curve.

    Only the key ID identifies one key: that of a JWK, or the fingerprint that our own `wrap` writes.
    """
    parts = []
    key_id = header.get("kid")
    if isinstance(key_id, str) and key_id:
        parts.append(f"kid {shown(key_id)}")
    parts.append(shown(header.get("alg", "no algorithm")))
    epk = header.get("epk")
    if isinstance(epk, dict) and isinstance(epk.get("crv"), str):
        parts.append(shown(epk["crv"]))
    text = " ".join(parts)
    return KeyName(text, isinstance(key_id, str) and bool(key_id) and is_whole(text))
