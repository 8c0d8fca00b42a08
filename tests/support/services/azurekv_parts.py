"""Providers of the tests of Azure Key Vault."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from decoder import limits
from decoder.provider import create
from decoder.provider.errors import ProviderError
from tests.support.keywrap.layers import private_options
from tests.support.services.azure_cloud import SECRET, VAULT, Cloud

if TYPE_CHECKING:
    from decoder.provider.audit import Provider

KEY = f"https://{VAULT}/keys/layers"


def provider(cloud: Cloud, **options: Any) -> Provider:
    given = {name.replace("_", "-"): value for name, value in options.items()}
    return create("azurekv", {"ca-file": str(cloud.authority.file), **given})


def failure(cloud: Cloud, work: Any, *arguments: Any) -> str:
    """Get the message of a failure; no secret is in it, nor in what comes with the exception."""
    with pytest.raises(ProviderError) as caught:
        work(*arguments)
    text = str(caught.value)
    for secret in (SECRET, "assertion-of-the-test", *cloud.tokens, str(private_options())[2:40]):
        assert secret not in text + repr(caught.value)
    assert len(text) < limits.PROVIDER_ERROR_BYTES
    return text


def changed(annotation: bytes, **members: Any) -> bytes:
    return json.dumps(json.loads(annotation) | members).encode()
