"""The reply of a key broker for a resource: a JWE to the key of the TEE (docs/formats.md §8; RFC 7516 §7.2.2).

Its protected header names ECDH-ES+A256KW on P-256 or P-521, or RSA-OAEP-256, and A256GCM; everything else, RSA1_5 too,
is rejected before the key is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from decoder import limits
from decoder.errors import WrappedKeyError, quoted
from decoder.formats import wire
from decoder.keys.keyring import Keyring
from decoder.keywrap import jwe
from decoder.keywrap.jwe.message import Jwe, parse
from decoder.provider.errors import ProviderError

if TYPE_CHECKING:
    from decoder.errors import Describable

_MEMBERS = {"protected", "encrypted_key", "iv", "ciphertext", "tag"}
_ECDH, _RSA = "ECDH-ES+A256KW", "RSA-OAEP-256"
_CURVES = ("P-256", "P-521")


def open_reply(reply: bytes, tee_key: bytes) -> bytes:
    """Decrypt a resource.

    Args:
        reply: the flattened JWE, at most JWE_BYTES.
        tee_key: the private key that the attestation named, as PEM, DER or JWK.

    Raises:
        ProviderError: the reply is too long, malformed, of another algorithm, or not for this key.
    """
    if len(reply) > limits.JWE_BYTES:
        raise ProviderError(f"the resource is longer than a key: its JWE has over {limits.JWE_BYTES} bytes")
    keyring = Keyring()
    keyring.add("the TEE key", tee_key)
    reasons = keyring.notes.warnings[:1]

    def refused(key: Describable, reason: str) -> None:
        reasons.append(f"{key.describe()}: {reason}")

    try:
        parsed = parse(reply)
        _check(parsed)
        resource = jwe.unwrap_with(parsed, keyring.private, refused)
    except (ValueError, WrappedKeyError) as error:
        raise ProviderError(f"the broker's reply is not a JWE for a TEE: {error}") from error
    if resource is None:
        raise ProviderError(f"the broker's reply cannot be opened: {'; '.join(reasons) or 'there is no TEE key'}")
    return resource


def _check(parsed: Jwe) -> None:
    """Check the algorithms against the protocol, before the key is used."""
    if parsed.value.keys() != _MEMBERS:
        raise ValueError(f"its members are not exactly {', '.join(sorted(_MEMBERS))}")
    header = parsed.recipients[0].joined
    algorithm, encryption = header.get("alg"), header.get("enc")
    if algorithm not in (_ECDH, _RSA):
        raise ValueError(f"its alg is {quoted(algorithm)}, not {_ECDH} or {_RSA}")
    if encryption != "A256GCM":
        raise ValueError(f"its enc is {quoted(encryption)}, not A256GCM")
    if algorithm == _ECDH and wire.object_value(header.get("epk")).get("crv") not in _CURVES:
        raise ValueError(f"its epk is not on {' or '.join(_CURVES)}")
