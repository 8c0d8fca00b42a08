"""The provider openbao: a real OpenBao over TLS, every login, and servers that misbehave."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jwcrypto.jwk
import jwcrypto.jwt
import pytest

from decoder import limits
from decoder.errors import UsageError
from decoder.formats import wire
from decoder.node import journal
from decoder.provider import create
from decoder.provider.errors import ProviderError
from tests.support.bao_server import ROOT_TOKEN, BaoServer
from tests.support.layers import private_options
from tests.support.loopback import Answer, Asked, Authority, Loopback, json_answer
from tests.support.processes import ROOT

if TYPE_CHECKING:
    from decoder.provider.audit import Provider

TOKEN = "s.token-of-the-test"
CIPHERTEXT = "vault:v1:" + wire.encode_base64(bytes(60))


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaoServer]:
    """`layers` and `other` at transit, `layers` at team/keys; the policy `layers` allows the first."""
    server = BaoServer(tmp_path_factory.mktemp("bao"))
    try:
        server.add_key("layers")
        server.add_key("other")
        server.add_key("layers", "team/keys")
        server.allow("layers", "transit/encrypt/layers", "transit/decrypt/layers")
        yield server
    finally:
        server.stop()


@pytest.fixture(autouse=True)
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No test sees a token or an address of whoever runs it, and each can read the journal."""
    for name in list(os.environ):
        if name.startswith(("BAO_", "VAULT_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    texts: list[str] = []
    monkeypatch.setattr(journal, "warn", texts.append)
    return texts


def provider(bao: BaoServer, **options: Any) -> Provider:
    """Make the provider, with the root token unless another login is given."""
    given = {name.replace("_", "-"): value for name, value in options.items()}
    return create("openbao", {"address": bao.url, "ca-file": str(bao.ca_file), **given})


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAO_TOKEN", ROOT_TOKEN)


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


# The real server.


def test_wraps_and_unwraps(bao: BaoServer, as_root: None, warnings: list[str]) -> None:
    keys = provider(bao, key="layers")
    wrapped = keys.wrap(private_options(), [])
    fields = json.loads(wrapped)
    assert list(fields) == ["key_url", "wrapped_key", "wrap_type"]
    assert (fields["key_url"], fields["wrap_type"]) == ("openbao://transit/layers", "TRANSIT")
    decrypted = bao.post("transit/decrypt/layers", ciphertext=fields["wrapped_key"])["data"]["plaintext"]
    assert wire.decode_base64(decrypted) == private_options()
    for parameters in ([], ["Enabled"], ["layers"], ["openbao://transit/layers"], ["hashivault://layers"]):
        assert keys.unwrap(wrapped, parameters) == private_options()
    assert warnings == []


def test_wraps_as_much_as_private_options_may_hold(bao: BaoServer, as_root: None) -> None:
    keys = provider(bao, key="layers")
    for options in (b"\0", os.urandom(limits.PRIVATE_OPTIONS_BYTES)):
        assert keys.unwrap(keys.wrap(options, []), []) == options


def test_reads_the_form_of_sigstore(bao: BaoServer, as_root: None) -> None:
    ciphertext = bao.post("team/keys/encrypt/layers", plaintext=wire.encode_base64(b"options"))["data"]["ciphertext"]
    foreign = annotation(key_url="hashivault://layers", wrapped_key=ciphertext)
    assert provider(bao, key="layers", mount="team/keys").unwrap(foreign, []) == b"options"


def test_older_versions_of_a_key_open(bao: BaoServer, as_root: None) -> None:
    keys = provider(bao, key="other")
    before = keys.wrap(b"options", [])
    bao.post("transit/keys/other/rotate")
    after = keys.wrap(b"options", [])
    assert b"vault:v2:" in after
    assert keys.unwrap(before, []) == keys.unwrap(after, []) == b"options"


def test_without_a_configured_key_the_image_chooses_with_a_warning(
    bao: BaoServer, as_root: None, warnings: list[str]
) -> None:
    keys = provider(bao)
    wrapped = keys.wrap(b"options", ["openbao://team/keys/layers"])
    assert json.loads(wrapped)["key_url"] == "openbao://team/keys/layers"
    assert keys.unwrap(wrapped, ["openbao://team/keys/layers"]) == b"options"
    assert warnings == []
    assert keys.unwrap(wrapped, []) == b"options"
    assert ["openbao://team/keys/layers" in text for text in warnings] == [True]
    assert "provider:NAME:openbao://transit/NAME, or set" in failure(keys.wrap, b"options", ["Enabled"])


def test_only_allowed_keys_are_asked_for(bao: BaoServer, as_root: None) -> None:
    wrapped = provider(bao).wrap(b"options", ["openbao://team/keys/layers"])
    nobody = {"address": "https://127.0.0.1:1", "key": "layers"}  # a request would fail in another way
    assert "is not the configured one" in failure(create("openbao", nobody).unwrap, wrapped, [])
    allowing = create("openbao", {**nobody, "allow-key": ["openbao://transit/*"]})
    assert "does not match any allow-key" in failure(allowing.unwrap, wrapped, [])
    assert "does not match any allow-key" in failure(allowing.wrap, b"options", ["openbao://team/keys/layers"])
    assert "is not one that was asked for" in failure(create("openbao", nobody).unwrap, annotation(), ["other"])
    assert "it was given 2 keys" in failure(create("openbao", nobody).wrap, b"options", ["layers", "other"])
    allowed = provider(bao, key="layers", allow_key=["openbao://team/*/layers"])
    assert allowed.unwrap(wrapped, []) == b"options"


def test_token_file_is_read_each_time(bao: BaoServer, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(bao.token("layers") + "\n")
    keys = provider(bao, key="layers", token_file=str(file))
    wrapped = keys.wrap(b"options", [])
    file.write_text("no-such-token")
    assert "Forbidden" in failure(keys.unwrap, wrapped, [])
    file.write_text(bao.token("layers"))
    assert keys.unwrap(wrapped, []) == b"options"
    for content in (b"", b"two words", b"\xff", b"line\nbreak", b"x" * 20000):
        file.write_bytes(content)
        assert "does not hold one word" in failure(keys.unwrap, wrapped, [])
    file.unlink()
    assert "No such file" in failure(keys.unwrap, wrapped, [])


def test_a_token_is_needed_and_none_is_looked_for_in_the_home_directory(
    bao: BaoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".vault-token").write_text(ROOT_TOKEN)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "openbao has no token" in failure(provider(bao, key="layers").wrap, b"options", [])
    monkeypatch.setenv("VAULT_TOKEN", ROOT_TOKEN)
    assert provider(bao, key="layers").wrap(b"options", [])


def test_environment_tells_the_server(bao: BaoServer, as_root: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAO_ADDR", bao.url)
    monkeypatch.setenv("VAULT_CACERT", str(bao.ca_file))
    keys = create("openbao", {"key": "layers"})
    assert keys.unwrap(keys.wrap(b"options", []), []) == b"options"


def test_app_role(bao: BaoServer, tmp_path: Path) -> None:
    bao.admin.sys.enable_auth_method("approle")
    bao.post("auth/approle/role/node", token_policies=["layers"], token_ttl="10m")
    role_id = bao.admin.auth.approle.read_role_id("node")["data"]["role_id"]
    secret = bao.admin.auth.approle.generate_secret_id("node")["data"]["secret_id"]
    file = tmp_path / "secret-id"
    file.write_text(secret)
    keys = provider(bao, key="layers", role_id=role_id, secret_id_file=str(file))
    wrapped = keys.wrap(b"options", [])
    file.write_text("expired-secret")
    assert keys.unwrap(wrapped, []) == b"options", "the token of the first login is used again"
    again = provider(bao, key="layers", role_id=role_id, secret_id_file=str(file))
    text = failure(again.unwrap, wrapped, [])
    assert "invalid" in text
    assert "expired-secret" not in text
    # A token that was revoked before its time is replaced, if there is a secret for another one.
    accessors: Any = bao.admin.list("auth/token/accessors")
    for accessor in accessors["data"]["keys"]:
        if bao.post("auth/token/lookup-accessor", accessor=accessor)["data"]["path"] == "auth/approle/login":
            bao.post("auth/token/revoke-accessor", accessor=accessor)
    assert "invalid" in failure(keys.unwrap, wrapped, [])
    file.write_text(secret)
    assert keys.unwrap(wrapped, []) == b"options"


def test_many_at_once(bao: BaoServer, as_root: None) -> None:
    """A provider is served to several clients at the same time."""
    keys = provider(bao, key="layers")
    options = [os.urandom(200) for _ in range(40)]
    with ThreadPoolExecutor(4) as pool:
        wrapped = list(pool.map(lambda item: keys.wrap(item, []), options))
        assert list(pool.map(lambda item: keys.unwrap(item, []), wrapped)) == options


def test_kubernetes(bao: BaoServer, tmp_path: Path) -> None:
    """OpenBao has the service account's token reviewed by a server that speaks that part of Kubernetes."""
    signer = jwcrypto.jwk.JWK.generate(kty="RSA", size=2048)
    account = {"namespace": "system", "serviceaccount": {"name": "decoder", "uid": "1234"}}
    claims = {
        "iss": "kubernetes/serviceaccount",
        "sub": "system:serviceaccount:system:decoder",
        "iat": int(time.time()) - 60,
        "nbf": int(time.time()) - 60,
        "exp": int(time.time()) + 600,
        "kubernetes.io": account,
        "kubernetes.io/serviceaccount/namespace": "system",
        "kubernetes.io/serviceaccount/service-account.name": "decoder",
        "kubernetes.io/serviceaccount/service-account.uid": "1234",
    }
    token = jwcrypto.jwt.JWT(header={"alg": "RS256"}, claims=claims)
    token.make_signed_token(signer)
    jwt = token.serialize()
    file = tmp_path / "jwt"
    file.write_text(jwt)

    def review(asked: Asked) -> Answer:
        right = json.loads(asked.body)["spec"]["token"] == jwt
        user = {"username": "system:serviceaccount:system:decoder", "uid": "1234", "groups": []}
        status = {"authenticated": right, "user": user} if right else {"authenticated": False, "error": "no"}
        reply = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status}
        return json_answer(reply, 201)

    authority = Authority(tmp_path)
    with Loopback(review, authority.server_context("127.0.0.1")) as kubernetes:
        bao.admin.sys.enable_auth_method("kubernetes", path="cluster")
        bao.post(
            "auth/cluster/config",
            kubernetes_host=kubernetes.url,
            kubernetes_ca_cert=authority.file.read_text(),
            token_reviewer_jwt=jwt,
            disable_local_ca_jwt=True,
        )
        bao.post(
            "auth/cluster/role/node",
            bound_service_account_names=["decoder"],
            bound_service_account_namespaces=["system"],
            token_policies=["layers"],
            token_ttl="10m",
        )
        keys = provider(bao, key="layers", kubernetes_role="node", jwt_file=str(file), auth_mount="cluster")
        assert keys.unwrap(keys.wrap(b"options", []), []) == b"options"
        assert [asked.path for asked in kubernetes.asked] == ["/apis/authentication.k8s.io/v1/tokenreviews"]
        other = provider(bao, key="layers", kubernetes_role="other", jwt_file=str(file), auth_mount="cluster")
        text = failure(other.wrap, b"options", [])
        assert "InvalidRequest" in text
        assert jwt not in text


def test_denied(bao: BaoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAO_TOKEN", bao.token("layers"))
    text = failure(provider(bao, key="other").wrap, b"options", [])
    assert bao.url.removeprefix("https://") in text
    assert "Forbidden" in text
    assert "permission denied" in text


def test_deleted_key(bao: BaoServer, as_root: None, monkeypatch: pytest.MonkeyPatch) -> None:
    bao.add_key("short-lived")
    wrapped = provider(bao, key="short-lived").wrap(b"options", [])
    bao.post("transit/keys/short-lived/config", deletion_allowed=True)
    bao.admin.delete("transit/keys/short-lived")
    text = failure(provider(bao, key="short-lived").unwrap, wrapped, [])
    assert "encryption key not found" in text
    assert "no handler for route" in failure(provider(bao, key="layers", mount="gone").wrap, b"options", [])


def test_changed_ciphertext(bao: BaoServer, as_root: None) -> None:
    wrapped = json.loads(provider(bao, key="layers").wrap(b"options", []))
    raw = bytearray(wire.decode_base64(wrapped["wrapped_key"].split(":")[2]))
    for at in (0, 11, 12, len(raw) - 1):
        changed = bytes(raw[:at]) + bytes([raw[at] ^ 1]) + bytes(raw[at + 1 :])
        text = failure(
            provider(bao, key="layers").unwrap, annotation(wrapped_key="vault:v1:" + wire.encode_base64(changed)), []
        )
        assert "InvalidRequest" in text


def test_sealed(tmp_path: Path, as_root: None) -> None:
    server = BaoServer(tmp_path)
    try:
        ca_file = server.ca_file.read_bytes()
        server.add_key("layers")
        keys = provider(server, key="layers")
        wrapped = keys.wrap(b"options", [])
        server.post("sys/seal")
        begin = time.monotonic()
        text = failure(keys.unwrap, wrapped, [])
        assert "VaultDown" in text
        assert "sealed" in text
        assert time.monotonic() - begin < 5, "there is no point in waiting for it"
    finally:
        server.stop()
    assert "there is no file" in failure(keys.unwrap, wrapped, []), "it removes what it had made"
    server.ca_file.write_bytes(ca_file)
    assert "cannot be reached: Connection refused" in failure(keys.unwrap, wrapped, [])


def test_wrong_authority(bao: BaoServer, as_root: None, tmp_path: Path) -> None:
    other = Authority(tmp_path)
    text = failure(provider(bao, key="layers", ca_file=str(other.file)).wrap, b"options", [])
    assert "the certificate of 127.0.0.1:" in text
    assert "not accepted" in text
    system = create("openbao", {"address": bao.url, "key": "layers"})
    assert "not accepted" in failure(system.wrap, b"options", [])
    named = bao.url.replace("127.0.0.1", "127.0.0.2")
    assert "cannot be reached" in failure(provider(bao, address=named, key="layers").wrap, b"options", [])


def test_wrong_name(tmp_path: Path, as_root: None) -> None:
    authority = Authority(tmp_path)
    with Loopback(lambda _: json_answer({}), authority.server_context("bao.example")) as server:
        keys = create("openbao", {"address": server.url, "ca-file": str(authority.file), "key": "layers"})
        text = failure(keys.wrap, b"options", [])
        assert "not accepted" in text
        assert "mismatch" in text
        assert server.asked == []


# Servers that misbehave.


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAO_TOKEN", TOKEN)


def encrypted(_: Asked) -> Answer:
    return json_answer({"data": {"ciphertext": CIPHERTEXT}})


@pytest.mark.parametrize("status", [429, 503])
def test_throttled(token: None, status: int) -> None:
    answers = [json_answer({"errors": ["slow down"]}, status, Retry_After=delay) for delay in ("1", "0", "soon")]
    with Loopback(lambda asked: answers.pop(0) if answers else encrypted(asked)) as server:
        begin = time.monotonic()
        create("openbao", {"address": server.url, "key": "layers"}).wrap(b"options", [])
        assert 1 < time.monotonic() - begin < 5
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
        assert time.monotonic() - begin < 2.5


@pytest.mark.parametrize("answer", [None, Answer(200, b"{" + b" " * 1000 + b"}", drip=0.1)])
def test_hangs(token: None, monkeypatch: pytest.MonkeyPatch, answer: Answer | None) -> None:
    monkeypatch.setattr(limits, "CLOUD_KMS_SECONDS", 1.0)
    with Loopback(lambda _: answer) as server:
        begin = time.monotonic()
        text = failure(create("openbao", {"address": server.url, "key": "layers"}).wrap, b"options", [])
        assert "did not answer in time" in text or "no answer within 1 seconds" in text
        assert time.monotonic() - begin < 2


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
        ({"role-id": "a", "token-file": "b"}, "logs in one way"),
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


def test_library_is_loaded_by_create_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import sys; from decoder.provider import options_of; options_of('openbao'); print('hvac' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "False\n"
    monkeypatch.setitem(sys.modules, "hvac", None)
    with pytest.raises(ProviderError, match=r"pip install 'ctd-decoder\[openbao\] @ "):
        create("openbao", {"address": "https://127.0.0.1"})


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
