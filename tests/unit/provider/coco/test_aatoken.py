"""Tokens for the key broker from the Attestation Agent's REST interface."""

from __future__ import annotations

import json

import pytest

from decoder import limits
from decoder.errors import UsageError
from decoder.provider.errors import ProviderError
from decoder.provider.services.coco.kbs.aatoken import fetch_token
from tests.support.coco.cdh_server import Hub
from tests.support.network.loopback import Answer, Loopback

SECONDS = 1.0
TOKEN = {
    "token": "eyJhbGciOiJFUzI1NiJ9.eyJleHAiOjF9.c2lnbmF0dXJl",
    "tee_keypair": "-----BEGIN PRIVATE KEY-----\nAA==\n",
}
LARGE_BYTES = 100 * 1024 * 1024


def test_a_token_and_its_key() -> None:
    hub = Hub({})
    with hub.rest() as server, pytest.raises(ProviderError, match=r"^it answered with status 500: "):
        fetch_token(server.url, SECONDS)
    hub.token = TOKEN
    with hub.rest() as server:
        assert fetch_token(server.url, SECONDS) == (TOKEN["token"], TOKEN["tee_keypair"].encode())
        assert [(asked.method, asked.path) for asked in server.asked] == [("GET", "/aa/token?token_type=kbs")]


def reply_of(**members: object) -> Answer:
    return Answer(200, json.dumps({**TOKEN, **members}).encode())


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (Answer(500, b"not enabled"), "it answered with status 500: 'not enabled'"),
        (Answer(200, b"token"), "its reply cannot be read: not JSON"),
        (Answer(200, b"[]"), "its reply cannot be read: JSON array instead of an object"),
        (Answer(200, b"[" * 50_000), "its reply cannot be read: "),  # nested too deeply, or for Python 3.14 not closed
        (Answer(200, b"{}"), "its reply holds no token"),
        (reply_of(token=7), "its reply cannot be read: JSON number instead of a string"),
        (reply_of(token="a.b"), "its reply holds no token"),
        (reply_of(token=f"{TOKEN['token']}\r\nX: y"), "its reply holds no token"),
        (reply_of(token=f"{TOKEN['token']}\n"), "its reply holds no token"),
        (reply_of(token=f"a.{'b' * limits.AGENT_TOKEN_BYTES}.c"), "its reply holds no token"),
        (reply_of(tee_keypair=None), "its reply holds no key pair with the token"),
        (reply_of(tee_keypair="AAAA"), "its reply holds no key pair with the token"),
        (Answer(200, bytes(LARGE_BYTES)), "is longer than 1048576 bytes"),
        (Answer(307, b"", {"Location": "https://other.example/"}), "redirects to 'other.example', which is not"),
        (None, "did not answer in time"),
    ],
)
def test_no_token(answer: Answer | None, text: str) -> None:
    with Loopback(lambda _: answer) as server, pytest.raises(ProviderError) as caught:
        fetch_token(server.url, SECONDS)
    reason = str(caught.value)
    assert text in reason or (answer is None and reason == f"no answer within {SECONDS:g} seconds")
    assert TOKEN["token"] not in reason
    assert "AA==" not in reason


def test_tokens_come_from_this_machine_or_over_tls() -> None:
    with pytest.raises(UsageError, match=r"the URL of the attestation agent .* must begin with https://"):
        fetch_token("http://agent.example:8006", SECONDS)
