"""The names of a JWE's recipients."""

from __future__ import annotations

import re
from collections.abc import Mapping

from decoder.keywrap.recipient import KeyName, is_whole, shown

FINGERPRINT = "fingerprint"
"""The header parameter with the fingerprint of the recipient's key, if its key ID is another."""
_FINGERPRINT = re.compile(r"sha256:[0-9a-f]{64}")


def key_name(header: Mapping[str, object]) -> KeyName:
    """Name a recipient by its joined header: key ID, fingerprint, key algorithm and curve.

    Only a fingerprint identifies one key, as our own `wrap` writes it: two JWKs may have the same key ID.
    """
    parts = []
    key_id, fingerprint = header.get("kid"), header.get(FINGERPRINT)
    if isinstance(key_id, str) and key_id:
        parts.append(f"kid {shown(key_id)}")
    if isinstance(fingerprint, str) and fingerprint:
        parts.append(shown(fingerprint))
    parts.append(shown(header.get("alg", "no algorithm")))
    epk = header.get("epk")
    if isinstance(epk, dict) and isinstance(epk.get("crv"), str):
        parts.append(shown(epk["crv"]))
    text = " ".join(parts)
    has_fingerprint = any(isinstance(each, str) and _FINGERPRINT.fullmatch(each) for each in (key_id, fingerprint))
    return KeyName(text, has_fingerprint and is_whole(text))
