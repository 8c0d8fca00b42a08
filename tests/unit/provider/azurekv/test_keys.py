"""What Azure Key Vault wraps and unwraps, and who may ask it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from decoder.formats import wire
from tests.support.keywrap.layers import private_options
from tests.support.network.loopback import Answer, Asked, json_answer
from tests.support.services.azure_cloud import ENTRA, OLDER, VAULT, VERSION, Cloud

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
from tests.support.services.azurekv_parts import KEY, changed, failure, provider


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
