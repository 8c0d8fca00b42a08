"""The provider azurekv: the whole Azure SDK against servers that speak its protocols, under Azure's names."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from decoder import limits
from decoder.errors import UsageError
from decoder.formats import wire
from decoder.node import journal
from decoder.provider import create
from decoder.provider.errors import KeyRefusedError, ProviderError
from tests.support.azure_cloud import CLIENT, ENTRA, OLDER, SECRET, TENANT, VAULT, VERSION, Cloud, base64url
from tests.support.layers import private_options
from tests.support.loopback import Answer, Asked, Authority, json_answer
from tests.support.processes import ROOT

if TYPE_CHECKING:
    from decoder.provider.audit import Provider

KEY = f"https://{VAULT}/keys/layers"


@pytest.fixture(scope="module")
def shared_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with Cloud(tmp_path_factory.mktemp("azure")) as cloud:
        yield cloud


@pytest.fixture
def cloud(shared_cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """Run a test with a client secret in the environment, and nothing of whoever runs it."""
    for name in list(os.environ):
        if name.startswith(("AZURE_", "IDENTITY_", "MSI_", "IMDS_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    client = {"AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": CLIENT, "AZURE_CLIENT_SECRET": SECRET}
    for name, value in (shared_cloud.environment | client).items():
        monkeypatch.setenv(name, value)
    shared_cloud.reset()
    return shared_cloud


@pytest.fixture(autouse=True)
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts: list[str] = []
    monkeypatch.setattr(journal, "warn", texts.append)
    return texts


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


@pytest.fixture
def wrapped(cloud: Cloud) -> bytes:
    annotation = provider(cloud, key=KEY).wrap(private_options(), [])
    cloud.proxy.hosts.clear()
    cloud.vault.asked.clear()
    return annotation


def test_wraps_and_unwraps(cloud: Cloud, warnings: list[str]) -> None:
    keys = provider(cloud, key=KEY)
    annotation = keys.wrap(private_options(), [])
    fields = json.loads(annotation)
    assert sorted(fields) == ["iv", "key_url", "key_version", "wrap_type", "wrapped_data", "wrapped_key"]
    assert (fields["key_url"], fields["key_version"]) == (KEY, VERSION)
    assert fields["wrap_type"] == "RSA-OAEP-256+A256GCM"
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    content_key = cloud.keys[VERSION].decrypt(wire.decode_base64(fields["wrapped_key"]), oaep)
    assert len(content_key) == 32
    data = AESGCM(content_key).decrypt(
        wire.decode_base64(fields["iv"]), wire.decode_base64(fields["wrapped_data"]), None
    )
    assert data == private_options()
    for parameters in ([], ["Enabled"], [KEY], [KEY.replace("layers.", "LAYERS.").replace("/keys", ":443/keys")]):
        assert keys.unwrap(annotation, parameters) == private_options()
    assert keys.wrap(private_options(), []) != annotation
    assert warnings == []
    assert set(cloud.proxy.hosts) == {f"{VAULT}:443", f"{ENTRA}:443"}
    assert len(cloud.tokens) == 1, "a token is used again"


def test_the_version_that_wrapped_unwraps(cloud: Cloud) -> None:
    older = provider(cloud, key=f"{KEY}/{OLDER}")
    annotation = older.wrap(b"options", [])
    assert json.loads(annotation)["key_url"] == f"{KEY}/{OLDER}"
    assert older.unwrap(annotation, []) == b"options"
    assert provider(cloud, key=KEY).unwrap(changed(annotation, key_url=KEY), []) == b"options"
    assert "400" in failure(
        cloud, provider(cloud, key=KEY).unwrap, changed(annotation, key_url=KEY, key_version=VERSION), []
    )
    assert "two versions" in failure(cloud, older.unwrap, changed(annotation, key_version=VERSION), [])


def test_no_key(cloud: Cloud) -> None:
    text = failure(cloud, provider(cloud).wrap, b"options", [])
    assert "provider:NAME:https://VAULT.vault.azure.net/keys/NAME, or set the option `key`" in text


def test_workload_identity(cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_CLIENT_SECRET")
    (tmp_path / "token").write_text("assertion-of-the-test")
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(tmp_path / "token"))
    keys = provider(cloud, key=KEY)
    assert keys.unwrap(keys.wrap(b"options", []), []) == b"options"
    assert any(b"assertion-of-the-test" in asked.body for asked in cloud.entra.asked)


def test_managed_identity(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TENANT_ID", "CLIENT_ID", "CLIENT_SECRET"):
        monkeypatch.delenv(f"AZURE_{name}")

    def machine(asked: Asked) -> Answer:
        if asked.headers.get("metadata") != "true":
            return json_answer({"error": "invalid_request"}, 400)
        assert "169.254.169.254" in asked.path
        reply = {"access_token": cloud.issue(), "expires_in": "3600", "expires_on": str(int(time.time()) + 3600)}
        return json_answer(reply | {"resource": "https://vault.azure.net", "token_type": "Bearer"})

    cloud.machine.answer = machine
    keys = provider(cloud, key=KEY)
    assert keys.unwrap(keys.wrap(b"options", []), []) == b"options"
    assert cloud.entra.asked == []


def test_no_credentials(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("TENANT_ID", "CLIENT_ID", "CLIENT_SECRET"):
        monkeypatch.delenv(f"AZURE_{name}")
    cloud.machine.answer = lambda _: json_answer({"error": "invalid_request"}, 403)
    text = failure(cloud, provider(cloud, key=KEY).wrap, b"options", [])
    assert "no Azure credential gives a token" in text
    assert capfd.readouterr() == ("", "")


def test_wrong_secret(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "wrong-secret")
    text = failure(cloud, provider(cloud, key=KEY).wrap, b"options", [])
    assert text == "no Azure credential gives a token: AADSTS7000215"
    assert capfd.readouterr() == ("", "")


def test_denied_and_disabled(cloud: Cloud, wrapped: bytes) -> None:
    keys = provider(cloud, key=KEY)
    cloud.denied.add("unwrapkey")
    text = failure(cloud, keys.unwrap, wrapped, [])
    assert f"{VAULT} answers HTTP 403 Forbidden/ForbiddenByPolicy" in text
    assert "does not have keys unwrapkey permission" in text
    cloud.disabled.add("layers")
    assert "403 Forbidden/KeyDisabled" in failure(cloud, keys.unwrap, wrapped, [])
    gone = provider(cloud, key=f"https://{VAULT}/keys/gone")
    assert "404 KeyNotFound" in failure(cloud, gone.wrap, b"options", [])


@pytest.mark.parametrize("status", [429, 503])
def test_throttled(cloud: Cloud, wrapped: bytes, status: int) -> None:
    busy = [json_answer({"error": {"code": "Throttled"}}, status, Retry_After=delay) for delay in ("1", "0")]

    def answer(asked: Asked) -> Answer:
        return busy.pop() if busy and "authorization" in asked.headers else cloud.keys_service(asked)

    cloud.vault.answer = answer
    begin = time.monotonic()
    assert provider(cloud, key=KEY).unwrap(wrapped, []) == private_options()
    assert 1 < time.monotonic() - begin < 6
    assert busy == []


@pytest.mark.parametrize("who", ["vault", "entra"])
def test_throttled_for_too_long(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, who: str) -> None:
    keys = provider(cloud, key=KEY)
    monkeypatch.setattr(limits, "CLOUD_KMS_SECONDS", 2.0)
    getattr(cloud, who).answer = lambda _: json_answer({"error": {}}, 429)
    begin = time.monotonic()
    assert "is too busy (HTTP 429)" in failure(cloud, keys.wrap, b"options", [])
    assert time.monotonic() - begin < 3


@pytest.mark.parametrize("who", ["vault", "entra"])
@pytest.mark.parametrize("answer", [None, Answer(200, b" " * 1000, drip=0.1)])
def test_hangs(cloud: Cloud, monkeypatch: pytest.MonkeyPatch, who: str, answer: Answer | None) -> None:
    keys = provider(cloud, key=KEY)
    monkeypatch.setattr(limits, "CLOUD_KMS_SECONDS", 1.5)
    getattr(cloud, who).answer = lambda _: answer
    begin = time.monotonic()
    text = failure(cloud, keys.wrap, b"options", [])
    assert "did not answer in time" in text or "no answer within" in text
    assert time.monotonic() - begin < 3


@pytest.mark.parametrize("value", [b"", b"x" * 31, b"x" * 32, b"x" * 33])
def test_wrong_key_unwrapped(cloud: Cloud, wrapped: bytes, value: bytes) -> None:
    def answer(asked: Asked) -> Answer:
        reply = json.loads(cloud.keys_service(asked).body)
        return json_answer(reply | {"value": base64url(value)}) if "value" in reply else cloud.keys_service(asked)

    cloud.vault.answer = answer
    text = failure(cloud, provider(cloud, key=KEY).unwrap, wrapped, [])
    assert ("does not open" if len(value) == 32 else "something other than a key of 256 bits") in text


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
        (json_answer({"kid": f"{KEY}/{VERSION}"}), "something other"),
        (json_answer({}), "something other"),
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


def test_server_down(cloud: Cloud) -> None:
    keys = provider(cloud, key="https://gone.vault.azure.net/keys/layers")
    assert "gone.vault.azure.net cannot be reached through the proxy" in failure(cloud, keys.wrap, b"options", [])


# No token goes to a server that an image chose.


@pytest.mark.parametrize(
    "key_url",
    [
        "https://other.example/keys/layers",
        "https://vault.azure.net/keys/layers",
        "https://evil-vault.azure.net/keys/layers",
        "https://layers.vault.azure.net.example/keys/layers",
        "https://layers.vault.azure.net:8443/keys/layers",
        "https://a.layers.vault.azure.net/keys/layers",
        "https://169.254.169.254/keys/layers",
    ],
)
def test_hosts_that_are_not_azure(cloud: Cloud, wrapped: bytes, key_url: str) -> None:
    with pytest.raises(KeyRefusedError, match="not a vault of Azure"):
        provider(cloud).unwrap(changed(wrapped, key_url=key_url), [])
    with pytest.raises(KeyRefusedError):
        provider(cloud, key=KEY).unwrap(changed(wrapped, key_url=key_url), [])
    assert cloud.proxy.hosts == []


@pytest.mark.parametrize(
    "key_url",
    [
        None,
        "",
        "layers",
        "http://layers.vault.azure.net/keys/layers",
        "https://me@layers.vault.azure.net/keys/layers",
        "https://other.example\\@layers.vault.azure.net/keys/layers",
        "https://other.example/?.vault.azure.net/keys/layers",
        "https://other.example#.vault.azure.net/keys/layers",
        "https://layers.vault.azure.net/keys/../secrets/layers",
        "https://layers.vault.azure.net/secrets/layers",
        "https://layers.vault.azure.net/keys/layers/",
        "https://layers.vault.azure.net/keys/layers/1",
        "https://layers.vault.azure.net/keys/layers?x=1",
        "https://layers.vault.azure.net/keys/lay\ners",
        "https://layers.vault.azure.net\n/keys/layers",
        "https://läyers.vault.azure.net/keys/layers",
    ],
)
def test_urls_that_are_no_key(cloud: Cloud, wrapped: bytes, key_url: str | None) -> None:
    for options in ({}, {"allow_key": ["https://*.vault.azure.net/keys/*", "*"]}):
        failure(cloud, provider(cloud, **options).unwrap, changed(wrapped, key_url=key_url), [])
    assert cloud.proxy.hosts == []


def test_a_vault_that_asks_for_another_token_gets_none(cloud: Cloud, wrapped: bytes) -> None:
    challenge = f'Bearer authorization="https://{ENTRA}/{TENANT}", resource="https://management.azure.com"'
    cloud.vault.answer = lambda _: json_answer({}, 401, WWW_Authenticate=challenge)
    text = failure(cloud, provider(cloud, key=KEY).unwrap, wrapped, [])
    assert "asks for a token in a way that is not accepted" in text or "HTTP 401" in text
    assert all("authorization" not in asked.headers for asked in cloud.vault.asked[1:])
    assert not any(b"management" in asked.body for asked in cloud.entra.asked)


def test_without_a_configured_key_the_image_chooses_with_a_warning(
    cloud: Cloud, wrapped: bytes, warnings: list[str]
) -> None:
    keys = provider(cloud)
    assert keys.unwrap(wrapped, [KEY]) == private_options()
    assert warnings == []
    assert keys.unwrap(wrapped, []) == private_options()
    assert [KEY in text for text in warnings] == [True]
    assert json.loads(keys.wrap(b"options", [KEY]))["key_url"] == KEY


def test_only_allowed_keys(cloud: Cloud, wrapped: bytes) -> None:
    allowing = provider(cloud, allow_key=[f"https://{VAULT}/keys/lay*"])
    assert allowing.unwrap(wrapped, []) == private_options()
    other = changed(wrapped, key_url=f"https://{VAULT}/keys/other")
    cloud.proxy.hosts.clear()
    assert "allow-key" in failure(cloud, allowing.unwrap, other, [])
    assert "is not the configured one" in failure(cloud, provider(cloud, key=KEY).unwrap, other, [])
    assert "asked for" in failure(cloud, allowing.unwrap, wrapped, [f"https://{VAULT}/keys/layers2"])
    assert cloud.proxy.hosts == []


@pytest.mark.parametrize(
    "members",
    [
        {"wrap_type": "AES"},
        {"wrap_type": None},
        {"key_version": None},
        {"key_version": "latest"},
        {"key_version": VERSION.upper()},
        {"key_version": f"{VERSION}/../x"},
        {"wrapped_key": None},
        {"wrapped_key": "*"},
        {"wrapped_key": wire.encode_base64(bytes(255))},
        {"wrapped_key": wire.encode_base64(bytes(513))},
        {"iv": wire.encode_base64(bytes(11))},
        {"iv": 7},
        {"wrapped_data": wire.encode_base64(bytes(15))},
        {"wrapped_data": wire.encode_base64(bytes(limits.PRIVATE_OPTIONS_BYTES + 17))},
    ],
)
def test_malformed_annotations_are_refused_before_any_request(
    cloud: Cloud, wrapped: bytes, members: dict[str, Any]
) -> None:
    failure(cloud, provider(cloud, key=KEY).unwrap, changed(wrapped, **members), [])
    for annotation in (b"", b"[]", b"{}", b"[" * 100_000):
        failure(cloud, provider(cloud, key=KEY).unwrap, annotation, [])
    assert cloud.proxy.hosts == []


@pytest.mark.parametrize("member", ["wrapped_key", "iv", "wrapped_data"])
def test_changed_annotations_do_not_open(cloud: Cloud, wrapped: bytes, member: str) -> None:
    raw = wire.decode_base64(json.loads(wrapped)[member])
    for at in (0, len(raw) - 1):
        other = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        failure(cloud, provider(cloud, key=KEY).unwrap, changed(wrapped, **{member: wire.encode_base64(other)}), [])


def test_libraries_are_loaded_by_create_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import sys; from decoder.provider import options_of; options_of('azurekv'); print('azure' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "False\n"
    monkeypatch.delitem(sys.modules, "decoder.provider.services.azureclient", raising=False)
    monkeypatch.setitem(sys.modules, "azure.identity", None)
    with pytest.raises(ProviderError, match=r"pip install 'ctd-decoder\[azure\] @ "):
        create("azurekv", {"key": KEY})


def test_bad_options(cloud: Cloud) -> None:
    for options in (
        {"key": "layers"},
        {"key": "http://a.vault.azure.net/keys/b"},
        {"ca-file": "/nothing"},
        {"adc": "x"},
    ):
        with pytest.raises(UsageError):
            create("azurekv", options)


def test_secrets_stay_out_of_logs(
    cloud: Cloud, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    keys = provider(cloud, key=KEY)
    keys.unwrap(keys.wrap(private_options(), []), [])
    shown = caplog.text + repr(keys) + repr(vars(keys))
    assert cloud.tokens
    assert not any(secret in shown for secret in (SECRET, *cloud.tokens))
    assert capfd.readouterr() == ("", "")
