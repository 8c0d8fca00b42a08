"""What key brokers, attestation agents and Confidential Data Hubs answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

from jwcrypto.jwk import JWK

from decoder.keywrap.kid import parse_kid
from decoder.provider.client import protocol
from decoder.provider.errors import ProviderError
from decoder.provider.services.coco.cdhunwrap import CdhUnwrap
from decoder.provider.services.coco.kbs import aatoken
from decoder.provider.services.coco.kbs.broker import Conversation
from decoder.provider.services.coco.kbs.handshake import attest_sample
from decoder.provider.services.coco.kbs.teekey import open_reply
from decoder.provider.services.coco.packet import build_packet, seal
from tests.support.coco import kbs_server
from tests.support.keywrap.layers import ec_key, pem, private_options

_END = b"\0\0"  # between the answers to several requests
_RESOURCE = parse_kid("kbs:///default/image_key/nginx")
_PACKET = build_packet(seal(_RESOURCE, bytes(32), private_options()))
_STATUS_DIGITS = 3


class _Session:
    """Answers requests one after the other: three digits of status, and a body. The last one is repeated."""

    def __init__(self, data: bytes) -> None:
        self.cookies: dict[str, str] = {"kbs-session-id": "1"}
        self._answers = data.split(_END)

    def request(self, *_: Any, **__: Any) -> Any:
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        digits = answer[:_STATUS_DIGITS]
        status = int(digits) if digits.isdigit() and digits.isascii() else 200
        return SimpleNamespace(status_code=status, content=answer[_STATUS_DIGITS:], headers={}, reason="")


def broker(data: bytes) -> None:
    """A handshake and a resource, and an upload."""
    conversation = Conversation("http://127.0.0.1", cast("Any", _Session(data)))
    with suppress(ProviderError):
        open_reply(conversation.get(_RESOURCE, "token"), _tee_key())
    conversation = Conversation("http://127.0.0.1", cast("Any", _Session(data)))
    with suppress(ProviderError):
        key = attest_sample(conversation)
        open_reply(conversation.get(_RESOURCE), key)
    conversation = Conversation("http://127.0.0.1", cast("Any", _Session(data)))
    with suppress(ProviderError):
        conversation.upload(_RESOURCE, bytes(32), "token")


def broker_seeds() -> Iterator[bytes]:
    """An honest broker, and what it refuses."""
    reply = json.dumps(kbs_server.encrypt(bytes(32), JWK.from_pem(_tee_key()))).encode()
    challenge = b'{"nonce":"AAECAw==","extra-params":{"selected-hash-algorithm":"sha384"}}'
    yield b"200" + reply
    yield _END.join([b"200" + challenge, b'200{"token":""}', b"200" + reply])
    refusal = {"type": "https://github.com/confidential-containers/kbs/errors/PolicyDeny", "detail": "no"}
    yield b"401" + json.dumps(refusal).encode()


def hub(data: bytes) -> None:
    """What a hub unwraps, and an attestation agent's token."""
    with suppress(ProviderError):
        CdhUnwrap("hub", lambda _request, _seconds: data, lambda _seconds: None).unwrap(_PACKET, 1.0)
    with mock.patch.object(aatoken, "get", return_value=data), suppress(ProviderError):
        aatoken.fetch_token("http://127.0.0.1:8006", 1.0)


def hub_seeds() -> Iterator[bytes]:
    """Both of them."""
    yield protocol.build_reply("keyunwrap", private_options())
    yield json.dumps({"token": "e30.e30.e30", "tee_keypair": _tee_key().decode()}).encode()


@cache
def _tee_key() -> bytes:
    return pem(ec_key())
