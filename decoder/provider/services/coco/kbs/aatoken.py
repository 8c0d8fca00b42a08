"""Attestation tokens from the Attestation Agent's REST interface, each with the key that replies are encrypted to."""

from __future__ import annotations

import re

from decoder import limits
from decoder.formats import wire
from decoder.provider.address import base_url
from decoder.provider.errors import ProviderError
from decoder.provider.services.coco.apiserver import get

_TARGET = "/aa/token?token_type=kbs"
# A JWT with a signature (RFC 7515 §7.1), which is sent in an HTTP header.
_JWT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", re.ASCII)
_PEM = "-----BEGIN "


def fetch_token(url: str, seconds: float) -> tuple[str, bytes]:
    """Fetch a token for the key broker; the agent attests first if necessary.

    Args:
        url: the URL of the agent's REST server, such as http://127.0.0.1:8006.
        seconds: the time limit.

    Returns:
        The token, a JWT, and the private key of the guest in PEM (EC as PKCS#8, RSA as PKCS#1).

    Raises:
        UsageError: the URL is malformed, or neither https nor on the loopback interface.
        ProviderError: the server cannot be reached, or answers with an error or without a token and a key.
    """
    reply = get(base_url(url, "the URL of the attestation agent"), _TARGET, seconds)
    try:
        value = wire.parse_object(reply)
        token, pem = wire.text_value(value.get("token")), wire.text_value(value.get("tee_keypair"))
    except ValueError as error:
        raise ProviderError(f"its reply cannot be read: {error}") from error
    if not is_token(token):
        raise ProviderError("its reply holds no token")
    if len(pem) > limits.KEY_FILE_BYTES or not pem.startswith(_PEM):
        raise ProviderError("its reply holds no key pair with the token")
    return token, pem.encode(errors="replace")


def is_token(text: str) -> bool:
    """Return whether a text has the form of a JWT and at most AGENT_TOKEN_BYTES characters."""
    return len(text) <= limits.AGENT_TOKEN_BYTES and bool(_JWT.fullmatch(text))
