"""Keys and providers of the tests of AWS KMS."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from decoder import limits
from decoder.formats import wire
from decoder.layer import annotations as layer
from decoder.provider import create
from decoder.provider.errors import ProviderError
from tests.support.services.aws_server import (
    REGION,
    SECRET_KEY,
    SESSION_TOKEN,
    Answers,
    kms_client,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from decoder.provider.audit import Provider

LAYER_KEY = bytes(range(100, 132))
OPTIONS = layer.build_private_options(layer.PrivateOptions(LAYER_KEY, bytes(16), "sha256:" + "0" * 64))
ARN = f"arn:aws:kms:{REGION}:123456789012:key/6b0b4a4f-0b4a-4b6a-9c3e-111111111111"
ALIAS = "alias/images"


class Moto:
    """Moto's server with two keys, the first of which has an alias."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        client = kms_client(endpoint)
        self.arn, self.other_arn = (client.create_key()["KeyMetadata"]["Arn"] for _ in range(2))
        self.key_id = self.arn.rpartition("/")[2]
        client.create_alias(AliasName=ALIAS, TargetKeyId=self.key_id)
        client.close()

    def options(self, **more: object) -> dict[str, object]:
        return {"endpoint": self.endpoint, "region": REGION, **more}


def message_of(work: Callable[[], object]) -> str:
    """Run what must fail, and give its message, which holds no secret."""
    with pytest.raises(ProviderError) as caught:
        work()
    text = str(caught.value)
    secrets = [SECRET_KEY, SESSION_TOKEN, wire.encode_base64(LAYER_KEY), wire.encode_base64(OPTIONS)[:40]]
    assert not [secret for secret in secrets if secret in text or secret in repr(caught.value)]
    assert len(text) < limits.PROVIDER_ERROR_BYTES
    assert "\n" not in text
    return text


def make_annotation(key: str, **more: object) -> bytes:
    value = {"key_url": f"awskms://{key}", "wrapped_key": "AAAA", "wrap_type": "AWSKMS", **more}
    return json.dumps(value).encode()


def provider_of(answers: Answers, **more: object) -> Provider:
    return create("awskms", {"endpoint": answers.endpoint, "key": ARN, **more})
