"""Providers of the tests of OpenBao."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from decoder import limits
from decoder.formats import wire
from decoder.provider import create
from decoder.provider.errors import ProviderError
from tests.support.keywrap.layers import private_options
from tests.support.services.bao_server import ROOT_TOKEN, BaoServer

if TYPE_CHECKING:
    from decoder.provider.audit import Provider

TOKEN = "s.token-of-the-test"
CIPHERTEXT = "vault:v1:" + wire.encode_base64(bytes(60))


def provider(bao: BaoServer, **options: Any) -> Provider:
    """Make the provider, with the root token unless another login is given."""
    given = {name.replace("_", "-"): value for name, value in options.items()}
    return create("openbao", {"address": bao.url, "ca-file": str(bao.ca_file), **given})


def failure(work: Any, *arguments: Any) -> str:
    """Get the message of a failure; no secret is in it, nor in what comes with the exception."""
    with pytest.raises(ProviderError) as caught:
        work(*arguments)
    text = str(caught.value)
    shown = text + repr(caught.value)
    for secret in (ROOT_TOKEN, TOKEN, wire.encode_base64(private_options())[:40], str(private_options())[2:40]):
        assert secret not in shown
    assert len(text) < limits.PROVIDER_ERROR_BYTES
    return text


def annotation(**members: Any) -> bytes:
    fields = {"key_url": "openbao://transit/layers", "wrapped_key": CIPHERTEXT, "wrap_type": "TRANSIT"}
    return json.dumps(fields | members).encode()
