"""No token goes to a server that an image chose."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from decoder import limits
from decoder.errors import UsageError
from decoder.formats import wire
from decoder.provider import create
from decoder.provider.errors import KeyRefusedError
from tests.support.keywrap.layers import private_options
from tests.support.network.loopback import json_answer
from tests.support.services.azure_cloud import ENTRA, SECRET, TENANT, VAULT, VERSION, Cloud
from tests.support.services.azurekv_parts import KEY, changed, failure, provider

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


def test_another_version_than_the_one_that_was_asked_for(cloud: Cloud) -> None:
    named = provider(cloud, key=f"{KEY}/{'0' * 32}")
    reply = {"kid": f"{KEY}/{'1' * 32}", "value": "AAAA"}
    honest = cloud.vault.answer
    cloud.vault.answer = lambda asked: (
        answer if (answer := honest(asked)) and answer.status == 401 else json_answer(reply)
    )
    told = failure(cloud, named.wrap, private_options(), [])
    assert told == "the vault used another version of the key than the requested one"
