"""What Google Cloud KMS wraps and unwraps, and with which key."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from decoder import limits
from decoder.errors import UsageError
from decoder.formats import wire
from decoder.node import journal
from decoder.provider import create
from decoder.provider.services.gcpkms import crc32c
from tests.support.services.gcp_server import KEY, Google, reply

if TYPE_CHECKING:
    from decoder.provider.audit import Provider
from tests.support.services.gcpkms_parts import LAYER_KEY, OPTIONS, OTHER_URI, URI, message_of


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts: list[str] = []
    monkeypatch.setattr(journal, "warn", texts.append)
    return texts


def test_the_annotation_is_the_published_one(google: Google, provider: Provider) -> None:
    annotation = json.loads(provider.wrap(OPTIONS, []))
    assert list(annotation) == ["key_url", "wrapped_key", "wrap_type"]
    assert annotation["key_url"] == URI
    assert annotation["wrap_type"] == "AES"
    method, request = google.kms.calls[0]
    assert (method, request.name, request.additional_authenticated_data) == ("encrypt", KEY, b"")
    assert request.plaintext_crc32c == crc32c(OPTIONS)
    assert LAYER_KEY not in wire.decode_base64(annotation["wrapped_key"])


def test_what_it_wrapped_it_unwraps(google: Google, provider: Provider) -> None:
    annotation = provider.wrap(OPTIONS, [])
    assert provider.unwrap(annotation, []) == OPTIONS
    method, request = google.kms.calls[-1]
    assert (method, request.name, request.additional_authenticated_data) == ("decrypt", KEY, b"")
    assert request.ciphertext_crc32c == crc32c(request.ciphertext)
    assert len(google.account.assertions) == 1, "one token serves for many operations"


def test_a_token_that_ends_is_renewed(google: Google, provider: Provider) -> None:
    def short(request: Any) -> None:
        google.account.tokens.append("token-for-a-second")
        reply(request, 200, {"access_token": "token-for-a-second", "expires_in": 1, "token_type": "Bearer"})

    google.account.answer = short
    annotation = provider.wrap(OPTIONS, [])
    google.account.answer = google.account.give_token
    assert provider.unwrap(annotation, []) == OPTIONS
    assert len(google.account.assertions) == 1


def test_the_parameter_names_the_key_and_the_annotation_serves_without_one(google: Google, warned: list[str]) -> None:
    provider = create("gcpkms", google.options())
    annotation = provider.wrap(OPTIONS, [f"{URI}\n"])
    assert json.loads(annotation)["key_url"] == URI
    assert provider.unwrap(annotation, [f"{URI}\n"]) == OPTIONS
    assert warned == []
    for parameters in ([], ["Enabled"]):
        warned.clear()
        assert provider.unwrap(annotation, parameters) == OPTIONS
        assert len(warned) == 1
        assert KEY[:40] in warned[0]


def test_a_parameter_that_differs_from_the_annotation_is_refused(google: Google) -> None:
    provider = create("gcpkms", google.options())
    annotation = provider.wrap(OPTIONS, [URI])
    google.kms.calls.clear()
    assert "not one that was asked for" in message_of(google, lambda: provider.unwrap(annotation, [OTHER_URI]))
    assert google.kms.calls == []


@pytest.mark.parametrize("spelling", ["key", "kmsURI"])
def test_the_configured_key_overrides_the_parameter(google: Google, spelling: str) -> None:
    provider = create("gcpkms", google.options(**{spelling: URI, "grpcport": ":50051"}))
    annotation = provider.wrap(OPTIONS, [OTHER_URI])
    assert json.loads(annotation)["key_url"] == URI
    assert provider.unwrap(annotation, [OTHER_URI]) == OPTIONS


def test_an_image_cannot_use_another_key_than_the_configured_one(google: Google, provider: Provider) -> None:
    annotation = create("gcpkms", google.options(key=OTHER_URI)).wrap(OPTIONS, [])
    google.kms.calls.clear()
    assert "not the configured one" in message_of(google, lambda: provider.unwrap(annotation, []))
    assert google.kms.calls == []


def test_patterns_allow_further_keys(google: Google) -> None:
    annotation = create("gcpkms", google.options(key=OTHER_URI)).wrap(OPTIONS, [])
    pattern = "gcpkms://projects/project-1/*/cryptoKeys/key?"
    assert create("gcpkms", google.options(**{"key": URI, "allow-key": [pattern]})).unwrap(annotation, []) == OPTIONS
    refusing = create("gcpkms", google.options(**{"allow-key": ["gcpkms://projects/other/*"]}))
    assert "allow-key" in message_of(google, lambda: refusing.unwrap(annotation, []))
    assert "allow-key" in message_of(google, lambda: refusing.wrap(OPTIONS, [URI]))


def test_no_key_and_two_keys_cannot_wrap(google: Google) -> None:
    provider = create("gcpkms", google.options())
    example = "provider:NAME:gcpkms://projects/P/locations/L/keyRings/R/cryptoKeys/K, or set the option `key`"
    assert example in message_of(google, lambda: provider.wrap(OPTIONS, ["Enabled"]))
    assert "2 keys" in message_of(google, lambda: provider.wrap(OPTIONS, [URI, OTHER_URI]))


@pytest.mark.parametrize(
    "key",
    [
        KEY,
        f"gcpkms://{KEY}/cryptoKeyVersions/1",
        f"gcpkms://{KEY}/../key2",
        f"gcpkms://{KEY}:destroy",
        f"gcpkms://{KEY}\n",
        "gcpkms://projects/p",
        "awskms://alias/a",
    ],
)
def test_only_the_uri_of_a_key_is_asked_for(google: Google, key: str) -> None:
    provider = create("gcpkms", google.options())
    annotation = json.dumps({"key_url": key, "wrapped_key": "AAAA", "wrap_type": "AES"}).encode()
    assert "is not gcpkms://" in message_of(google, lambda: provider.unwrap(annotation, []))
    assert google.kms.calls == []
    with pytest.raises(UsageError):
        create("gcpkms", google.options(key=key))


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        (b"", "malformed"),
        (b"[]", "malformed"),
        (json.dumps({"key_url": URI, "wrapped_key": "!", "wrap_type": "AES"}).encode(), "malformed"),
        (json.dumps({"key_url": URI, "wrapped_key": 1, "wrap_type": "AES"}).encode(), "malformed"),
        (json.dumps({"key_url": URI, "wrapped_key": "", "wrap_type": "AES"}).encode(), "no wrapped_key"),
        (json.dumps({"wrapped_key": "AAAA", "wrap_type": "AES"}).encode(), "no key_url"),
        (json.dumps({"key_url": URI, "wrapped_key": "AAAA", "wrap_type": "RSA"}).encode(), "wrap_type"),
        (json.dumps({"key_url": URI, "wrapped_key": "A" * 200_000, "wrap_type": "AES"}).encode(), "longer"),
        (b" " * (limits.PROVIDER_MESSAGE_BYTES + 1), "longer"),
    ],
)
def test_malformed_annotations(google: Google, provider: Provider, annotation: bytes, reason: str) -> None:
    assert reason in message_of(google, lambda: provider.unwrap(annotation, []))
    assert google.kms.calls == []
