"""Azure Key Vault is slow, down, or answers with something else."""

from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING

import pytest

from decoder import limits
from decoder.provider import create
from decoder.provider.services.azurekv.client import Reply
from tests.support.keywrap.layers import private_options
from tests.support.network.loopback import Answer, Asked, Authority, json_answer
from tests.support.services.azure_cloud import ENTRA, VAULT, VERSION, Cloud, base64url

if TYPE_CHECKING:
    from pathlib import Path
from tests.support.services.azurekv_parts import KEY, failure, provider


@pytest.mark.parametrize("status", [429, 503])
def test_throttled(cloud: Cloud, wrapped: bytes, status: int) -> None:
    busy = [json_answer({"error": {"code": "Throttled"}}, status, Retry_After=delay) for delay in ("1", "0")]

    def answer(asked: Asked) -> Answer:
        return busy.pop() if busy and "authorization" in asked.headers else cloud.keys_service(asked)

    cloud.vault.answer = answer
    begin = time.monotonic()
    assert provider(cloud, key=KEY).unwrap(wrapped, []) == private_options()
    assert 1 < time.monotonic() - begin < 15
    assert busy == []


@pytest.mark.parametrize("who", ["vault", "entra"])
def test_throttled_for_too_long(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, who: str) -> None:
    keys = provider(cloud, key=KEY)
    monkeypatch.setattr(limits, "CLOUD_KMS_SECONDS", 2.0)
    getattr(cloud, who).answer = lambda _: json_answer({"error": {}}, 429)
    begin = time.monotonic()
    assert "is too busy (HTTP 429)" in failure(cloud, keys.wrap, b"options", [])
    assert time.monotonic() - begin < 15


@pytest.mark.parametrize("who", ["vault", "entra"])
@pytest.mark.parametrize("answer", [None, Answer(200, b" " * 1000, drip=0.1)])
def test_hangs(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, who: str, answer: Answer | None) -> None:
    keys = provider(cloud, key=KEY)
    monkeypatch.setattr(limits, "CLOUD_KMS_SECONDS", 1.5)
    getattr(cloud, who).answer = lambda _: answer
    begin = time.monotonic()
    text = failure(cloud, keys.wrap, b"options", [])
    assert "did not answer in time" in text or "no answer within" in text
    assert time.monotonic() - begin < 15


@pytest.mark.parametrize("value", [b"", b"x" * 31, b"x" * 32, b"x" * 33])
def test_wrong_key_unwrapped(cloud: Cloud, wrapped: bytes, value: bytes) -> None:
    def answer(asked: Asked) -> Answer:
        reply = json.loads(cloud.keys_service(asked).body)
        return json_answer(reply | {"value": base64url(value)}) if "value" in reply else cloud.keys_service(asked)

    cloud.vault.answer = answer
    text = failure(cloud, provider(cloud, key=KEY).unwrap, wrapped, [])
    assert ("does not decrypt" if len(value) == 32 else "did not return a key of 256 bits") in text


@pytest.mark.parametrize(
    "kid",
    [
        "",
        KEY,
        f"{KEY}/x",
        f"https://{VAULT}/keys/other/{VERSION}",
        f"https://other.vault.azure.net/keys/layers/{VERSION}",
        7,
        None,
    ],
)
def test_another_key_wrapped(cloud: Cloud, kid: object) -> None:
    def answer(asked: Asked) -> Answer:
        reply = json.loads(cloud.keys_service(asked).body)
        return json_answer(reply | {"kid": kid}) if "value" in reply else cloud.keys_service(asked)

    cloud.vault.answer = answer
    failure(cloud, provider(cloud, key=KEY).wrap, b"options", [])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer(200), "cannot be understood"),
        (Answer(200, b"<html>"), "cannot be understood"),
        (Answer(200, b"[" * 100_000), "cannot be understood"),
        (json_answer([]), "cannot be understood"),
        (json_answer({"kid": f"{KEY}/{VERSION}", "value": "*"}), "cannot be understood"),
        (json_answer({"kid": f"{KEY}/{VERSION}", "value": 7}), "cannot be understood"),
        (json_answer({"kid": f"{KEY}/{VERSION}"}), "did not return a key"),
        (json_answer({}), "did not return a key"),
        (Answer(500, b"<html>"), "cannot be understood"),
        (json_answer({}, 500), "HTTP 500"),
        (json_answer({"error": 7}, 400), "HTTP 400"),
        (json_answer({"error": {"code": "a\nb", "message": "x\n" * 5000}}, 418), r"HTTP 418: 'x\nx"),
        (Answer(200, b" " * (limits.PROVIDER_MESSAGE_BYTES + 1)), "longer than"),
        (
            Answer(302, b"", {"Location": "https://other.example/"}),
            "redirects to 'other.example', which is not followed",
        ),
    ],
)
def test_corrupt_replies(cloud: Cloud, wrapped: bytes, answer: Answer, message: str) -> None:
    cloud.vault.answer = lambda asked: answer if "authorization" in asked.headers else cloud.keys_service(asked)
    assert message in failure(cloud, provider(cloud, key=KEY).unwrap, wrapped, [])
    assert set(cloud.proxy.hosts) <= {f"{VAULT}:443", f"{ENTRA}:443"}


@pytest.mark.parametrize("reply", [Answer(200, b"<html>"), json_answer([]), json_answer({}), Answer(500, b"x")])
def test_corrupt_token_service(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, reply: Answer) -> None:
    keys = provider(cloud, key=KEY)
    monkeypatch.setattr(limits, "CLOUD_KMS_SECONDS", 8.0)
    cloud.entra.answer = lambda _: reply
    failure(cloud, keys.wrap, b"options", [])


def test_a_token_that_no_header_can_hold(cloud: Cloud) -> None:
    usual = cloud.entra.answer

    def answer(asked: Asked) -> Answer | None:
        reply = usual(asked)
        value = json.loads(reply.body) if reply else {}
        return json_answer(value | {"access_token": "secret\r\nX-Other: x"}) if "access_token" in value else reply

    cloud.entra.answer = answer
    text = failure(cloud, provider(cloud, key=KEY).wrap, b"options", [])
    assert text.startswith(
        f"the request to {VAULT} failed (Service"
    )  # the exception of the SDK, whose text has the token


def test_wrong_authority(cloud: Cloud, tmp_path: Path) -> None:
    other = create("azurekv", {"key": KEY, "ca-file": str(Authority(tmp_path).file)})
    text = failure(cloud, other.wrap, b"options", [])
    assert "the certificate of" in text, "of the vault, or of the token service if its challenge is known"
    assert "is not accepted" in text
    assert cloud.vault.asked == cloud.entra.asked == []


def test_wrong_name(cloud: Cloud) -> None:
    keys = provider(cloud, key="https://other.vault.azure.net/keys/layers")
    cloud.proxy._routes["other.vault.azure.net:443"] = cloud.vault.port
    try:
        text = failure(cloud, keys.wrap, b"options", [])
    finally:
        del cloud.proxy._routes["other.vault.azure.net:443"]
    assert "mismatch" in text
    assert cloud.vault.asked == []


def test_server_down(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CLOUD_KMS_SECONDS", 10.0)
    keys = provider(cloud, key="https://gone.vault.azure.net/keys/layers")
    assert "gone.vault.azure.net cannot be reached through the proxy" in failure(cloud, keys.wrap, b"options", [])


def test_a_reply_shows_no_key() -> None:
    assert repr(Reply("https://vault/keys/a/1", b"secret")) == "Reply('https://vault/keys/a/1', …)"


def test_whether_the_vault_can_be_reached(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the proxy of the environment; without a configured key there is no vault to reach."""
    provider(cloud, key=KEY).reach(60)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and refuses connections
        for name in ("https_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{bound.getsockname()[1]}")
        assert failure(cloud, provider(cloud, key=KEY).reach, 60) == "no connection: Connection refused"
        provider(cloud).reach(60)
