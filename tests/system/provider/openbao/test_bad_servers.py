"""The keyprovider openbao with servers that misbehave, and bad input."""

from __future__ import annotations

import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from decoder import limits
from decoder.errors import UsageError
from decoder.formats import wire
from decoder.provider import create
from tests.support.keywrap.layers import private_options
from tests.support.network.loopback import Answer, Asked, Loopback, json_answer
from tests.support.services.openbao_parts import CIPHERTEXT, TOKEN, annotation, failure


def encrypted(_: Asked) -> Answer:
    return json_answer({"data": {"ciphertext": CIPHERTEXT}})


@pytest.mark.parametrize("status", [429, 503])
def test_throttled(token: None, status: int) -> None:
    answers = [json_answer({"errors": ["slow down"]}, status, Retry_After=delay) for delay in ("1", "0", "soon")]
    with Loopback(lambda asked: answers.pop(0) if answers else encrypted(asked)) as server:
        begin = time.monotonic()
        create("openbao", {"address": server.url, "key": "layers"}).wrap(b"options", [])
        assert 1 < time.monotonic() - begin < 15
        assert len(server.asked) == 4
        assert {asked.headers["x-vault-token"] for asked in server.asked} == {TOKEN}


def test_a_server_that_refuses_connections_for_a_while_fails_nothing(token: None) -> None:
    """As while it is started again: the client tries until its time is over."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    keys = create("openbao", {"address": f"http://127.0.0.1:{port}", "key": "layers"})
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(keys.wrap, b"options", [])
        time.sleep(8)
        assert not asked.done()
        with Loopback(encrypted, port=port):
            assert CIPHERTEXT.encode() in asked.result(30)


@pytest.mark.parametrize("delay", ["0", "3600"])
def test_throttled_for_too_long(token: None, monkeypatch: pytest.MonkeyPatch, delay: str) -> None:
    monkeypatch.setattr(limits, "CLOUD_KMS_SECONDS", 2.0)
    with Loopback(lambda _: json_answer({"errors": []}, 429, Retry_After=delay)) as server:
        begin = time.monotonic()
        text = failure(create("openbao", {"address": server.url, "key": "layers"}).wrap, b"options", [])
        assert text.endswith("is too busy (HTTP 429)")
        assert time.monotonic() - begin < 15


@pytest.mark.parametrize("answer", [None, Answer(200, b"{" + b" " * 1000 + b"}", drip=0.1)])
def test_hangs(token: None, monkeypatch: pytest.MonkeyPatch, answer: Answer | None) -> None:
    monkeypatch.setattr(limits, "CLOUD_KMS_SECONDS", 1.0)
    with Loopback(lambda _: answer) as server:
        begin = time.monotonic()
        text = failure(create("openbao", {"address": server.url, "key": "layers"}).wrap, b"options", [])
        assert "did not answer in time" in text or "no answer within 1 seconds" in text
        assert time.monotonic() - begin < 15


def test_redirects_are_not_followed(token: None) -> None:
    with Loopback(encrypted) as other:
        for status in (301, 307, 308):
            headers = {"Location": f"{other.url}/v1/transit/encrypt/layers"}
            redirect = Answer(status, b"", headers)
            with Loopback(lambda _, answer=redirect: answer) as server:  # type: ignore[misc]
                text = failure(create("openbao", {"address": server.url, "key": "layers"}).wrap, b"options", [])
                assert f"redirects to '127.0.0.1:{other.port}', which is not followed" in text
        assert other.asked == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer(200), "holds no ciphertext"),
        (Answer(204), "holds no ciphertext"),
        (Answer(200, b"<html>"), "holds no ciphertext"),
        (json_answer([]), "holds no ciphertext"),
        (json_answer({"data": []}), "holds no ciphertext"),
        (json_answer({"data": {"ciphertext": 7}}), "holds no ciphertext"),
        (json_answer({"data": {"ciphertext": "vault:v1:*"}}), "something other than a transit ciphertext"),
        (json_answer({"data": {"ciphertext": TOKEN}}), "something other than a transit ciphertext"),
        (json_answer({"errors": 7}, 400), "cannot be understood"),
        (json_answer([], 500), "cannot be understood"),
        (Answer(500, TOKEN.encode()), "answers InternalServerError"),
        (json_answer({"errors": ["line\nbreak" + "x" * 5000]}, 418), r"answers UnexpectedError: 'line\nbr"),
        (Answer(200, b" " * (limits.PROVIDER_MESSAGE_BYTES + 1)), "longer than"),
        (Answer(200, b"no gzip", {"Content-Encoding": "gzip"}), "does not speak HTTP"),
    ],
)
def test_corrupt_replies(token: None, answer: Answer, message: str) -> None:
    with Loopback(lambda _: answer) as server:
        assert message in failure(create("openbao", {"address": server.url, "key": "layers"}).wrap, b"options", [])


@pytest.mark.parametrize("plaintext", ["*", 7, None])
def test_corrupt_plaintext(token: None, plaintext: object) -> None:
    with Loopback(lambda _: json_answer({"data": {"plaintext": plaintext}})) as server:
        keys = create("openbao", {"address": server.url, "key": "layers"})
        if plaintext is None:
            assert keys.unwrap(annotation(), []) == b""
        else:
            assert "server" in failure(keys.unwrap, annotation(), [])


@pytest.mark.parametrize("reply", [{}, {"auth": None}, {"auth": {}}, {"auth": []}, []])
def test_corrupt_logins(reply: object) -> None:
    with Loopback(lambda _: json_answer(reply)) as server:
        options = {"address": server.url, "key": "layers", "role-id": "role"}
        assert "cannot be understood" in failure(create("openbao", options).wrap, b"options", [])


def test_secrets_stay_out_of_logs(
    token: None, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with Loopback(encrypted) as server:
        keys = create("openbao", {"address": server.url, "key": "layers"})
        keys.wrap(private_options(), [])
        assert len(server.asked) == 1
        shown = caplog.text + repr(keys) + repr(vars(keys))
    assert TOKEN not in shown
    assert wire.encode_base64(private_options())[:40] not in shown
    assert capfd.readouterr() == ("", "")


# Bad input.


@pytest.mark.parametrize(
    "wrapped",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 100_000,
        annotation(wrap_type="AES"),
        annotation(wrap_type=None),
        annotation(wrapped_key=None),
        annotation(wrapped_key=7),
        annotation(wrapped_key="vault:v1:"),
        annotation(wrapped_key="vault:v1:QQ==\n"),
        annotation(wrapped_key="vault:v1:../../sys/seal"),
        annotation(wrapped_key="vault:v1:" + "A" * (2 * limits.PRIVATE_OPTIONS_BYTES)),
        annotation(key_url=None),
        annotation(key_url="openbao://transit"),
        annotation(key_url="openbao:///layers"),
        annotation(key_url="openbao://transit/"),
        annotation(key_url="openbao://transit/../sys"),
        annotation(key_url="openbao://../layers"),
        annotation(key_url="openbao://transit/%2e%2e"),
        annotation(key_url="openbao://transit/layers?x=1"),
        annotation(key_url="openbao://transit/layers#"),
        annotation(key_url="openbao://transit/la\nyers"),
        annotation(key_url="openbao://transit/läyers"),
        annotation(key_url="openbao://transit//layers"),
        annotation(key_url="hashivault://transit/layers"),
        annotation(key_url="gcpkms://projects/p"),
        annotation(key_url="https://other.example/v1/transit/layers"),
    ],
)
def test_malformed_annotations_are_refused_before_any_request(token: None, wrapped: bytes) -> None:
    with Loopback(lambda _: json_answer({"data": {"plaintext": "QQ=="}})) as server:
        failure(create("openbao", {"address": server.url}).unwrap, wrapped, [])
        assert server.asked == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs the option address"),
        ({"address": "http://bao.example:8200"}, "is not https"),
        ({"address": "http://127.0.0.1.example"}, "is not https"),
        ({"address": "ftp://127.0.0.1"}, "not https://HOST:PORT"),
        ({"address": "https://"}, "not https://HOST:PORT"),
        ({"address": "https://me:secret@host"}, "not https://HOST:PORT"),
        ({"address": "https://host:port"}, "not https://HOST:PORT"),
        ({"address": "https://[::1"}, "not https://HOST:PORT"),
        ({"address": "https://host?x"}, "not https://HOST:PORT"),
        ({"insecure-http": "maybe"}, "neither yes nor no"),
        ({"key": "../sys"}, "the option key"),
        ({"mount": "a/../b"}, "the option mount"),
        ({"namespace": "a\r\nX: y"}, "the option namespace"),
        ({"ca-file": "/nothing"}, "is not a file"),
        ({"role-id": "a", "token-file": "b"}, "exclude each other"),
        ({"secret-id-file": "a"}, "needs role-id"),
        ({"jwt-file": "a", "role-id": "b"}, "needs kubernetes-role"),
        ({"role-id": "a", "auth-mount": ".."}, "the option auth-mount"),
        ({"token": TOKEN}, "no option 'token'"),
    ],
)
def test_bad_options(options: dict[str, str], message: str) -> None:
    address = {} if options == {} or "address" in options else {"address": "https://127.0.0.1:8200"}
    with pytest.raises(UsageError, match=message) as caught:
        create("openbao", address | options)
    assert "secret@" not in str(caught.value)


def test_plain_http_to_other_hosts_must_be_allowed() -> None:
    assert create("openbao", {"address": "http://bao.example:8200", "insecure-http": "yes"})
    for host in ("127.0.0.1:8200", "[::1]:8200", "localhost", "127.9.9.9"):
        assert create("openbao", {"address": f"http://{host}"})


def test_plain_http_goes_to_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would see the token."""
    monkeypatch.setenv("BAO_TOKEN", TOKEN)
    with Loopback(encrypted) as server, Loopback(lambda _: json_answer({})) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        create("openbao", {"address": server.url, "key": "layers"}).wrap(private_options(), [])
        assert len(server.asked) == 1
        assert proxy.asked == []
