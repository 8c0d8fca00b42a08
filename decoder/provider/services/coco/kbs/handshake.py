"""The handshake that attests with a key broker in the background (docs/formats.md §8), with the sample attester.

The sample attester proves nothing. Brokers for development and tests accept it if their policy allows it.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from decoder.errors import quoted
from decoder.formats import wire
from decoder.provider.errors import ProviderError

if TYPE_CHECKING:
    from decoder.provider.services.coco.kbs.broker import Conversation

_VERSION = "0.4.0"
_TEE = "sample"
_HASHES = ("sha256", "sha384", "sha512", "sm3")
_DEFAULT_HASH = "sha384"


def attest_sample(conversation: Conversation) -> bytes:
    """Attest, so that the conversation's cookie opens resources.

    Returns:
        A new private key as a JWK, to which the broker then encrypts.

    Raises:
        RefusedError: the broker answered with an error.
        ProviderError: the broker cannot be reached, or its challenge is malformed.
    """
    from jwcrypto.jwk import JWK

    offered = [name for name in _HASHES if name in hashlib.algorithms_available]
    parameters = {"supported-hash-algorithms": offered}
    challenge = conversation.post("auth", {"version": _VERSION, "tee": _TEE, "extra-params": parameters})
    nonce, algorithm = _read_challenge(challenge, offered)
    key = JWK.generate(kty="EC", crv="P-256", alg="ECDH-ES+A256KW")
    runtime_data = {"nonce": nonce, "tee-pubkey": key.export_public(as_dict=True)}
    bound = _canonical({**runtime_data, "additional-evidence": ""})
    report_data = wire.encode_base64(hashlib.new(algorithm, bound).digest())
    evidence = {"primary_evidence": {"svn": "1", "report_data": report_data}, "additional_evidence": ""}
    conversation.post("attest", {"runtime-data": runtime_data, "tee-evidence": evidence})
    return str(key.export()).encode()


def _read_challenge(challenge: dict[str, object], offered: list[str]) -> tuple[str, str]:
    """Return the nonce and the hash algorithm, which the broker chooses among those that were offered."""
    parameters = challenge.get("extra-params")
    chosen = parameters.get("selected-hash-algorithm") if isinstance(parameters, dict) else None
    algorithm = str(chosen or _DEFAULT_HASH).lower()
    if algorithm not in offered:
        raise ProviderError(f"it chose the hash algorithm {quoted(algorithm)}, which was not offered")
    try:
        nonce = wire.text_value(challenge.get("nonce"))
        if not wire.decode_base64(nonce):
            raise ProviderError("its challenge has no nonce")
    except ValueError as error:
        raise ProviderError(f"the nonce of its challenge is malformed: {error}") from error
    return nonce, algorithm


def _canonical(value: object) -> bytes:
    """Serialize an object of strings as RFC 8785 requires.

    Member names are ASCII, so sorting them by code points gives the order in UTF-16 that RFC 8785 requires.
    """
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
