"""The names of a JWE's recipients."""

from __future__ import annotations

from collections.abc import Mapping

from decoder.keywrap.recipient import KeyName, is_whole, shown


def key_name(header: Mapping[str, object]) -> KeyName:
    """Name a recipient by its joined header: key ID, key algorithm and curve.

    Only a key ID identifies a single key; `wrap` writes that of the JWK, or the key's fingerprint.
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
