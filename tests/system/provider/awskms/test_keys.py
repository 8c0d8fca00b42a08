"""What AWS KMS wraps and unwraps, and with which key."""

from __future__ import annotations

import json

import pytest

from decoder.errors import UsageError
from decoder.formats import wire
from decoder.node import journal
from decoder.provider import create
from tests.support.services.aws_server import (
    REGION,
    Answers,
)
from tests.support.services.awskms_parts import (
    ALIAS,
    ARN,
    LAYER_KEY,
    OPTIONS,
    Moto,
    make_annotation,
    message_of,
    provider_of,
)


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts: list[str] = []
    monkeypatch.setattr(journal, "warn", texts.append)
    return texts


@pytest.mark.parametrize("form", ["arn", "id", "alias", "alias ARN"])
def test_what_it_wrapped_it_unwraps(moto: Moto, form: str) -> None:
    alias_arn = moto.arn.replace(f"key/{moto.key_id}", ALIAS)
    key = {"arn": moto.arn, "id": moto.key_id, "alias": ALIAS, "alias ARN": alias_arn}[form]
    provider = create("awskms", moto.options(key=key))
    annotation = provider.wrap(OPTIONS, [])
    assert provider.unwrap(annotation, []) == OPTIONS
    value = json.loads(annotation)
    assert list(value) == ["key_url", "wrapped_key", "wrap_type"]
    assert value["key_url"] == f"awskms://{key}"
    assert value["wrap_type"] == "AWSKMS"
    assert LAYER_KEY not in wire.decode_base64(value["wrapped_key"])


def test_the_caller_names_the_key(moto: Moto, warned: list[str]) -> None:
    provider = create("awskms", moto.options())
    example = "provider:NAME:awskms://arn:aws:kms:REGION:ACCOUNT:key/ID, or set the option `key`"
    assert example in message_of(lambda: provider.wrap(OPTIONS, []))
    annotation = provider.wrap(OPTIONS, [f"awskms://{moto.arn}\n"])
    assert provider.unwrap(annotation, [moto.arn]) == OPTIONS
    assert warned == []
    assert provider.unwrap(annotation, ["Enabled"]) == OPTIONS
    assert len(warned) == 1
    assert moto.arn in warned[0]
    assert "not one that was asked for" in message_of(lambda: provider.unwrap(annotation, [moto.other_arn]))


def test_an_image_cannot_use_another_key_than_the_configured_one(moto: Moto) -> None:
    annotation = create("awskms", moto.options(key=moto.other_arn)).wrap(OPTIONS, [])
    provider = create("awskms", moto.options(key=moto.arn))
    assert "not the configured one" in message_of(lambda: provider.unwrap(annotation, []))
    assert "not the configured one" in message_of(lambda: provider.wrap(OPTIONS, [moto.other_arn]))
    patterns = ["arn:aws:kms:eu-*:123456789012:key/*"]
    assert create("awskms", moto.options(**{"key": ALIAS, "allow-key": patterns})).unwrap(annotation, []) == OPTIONS


def test_a_ciphertext_of_another_key_is_refused_by_kms(moto: Moto) -> None:
    value = json.loads(create("awskms", moto.options(key=moto.other_arn)).wrap(OPTIONS, []))
    value["key_url"] = f"awskms://{ALIAS}"
    provider = create("awskms", moto.options(key=ALIAS))
    message = message_of(lambda: provider.unwrap(json.dumps(value).encode(), []))
    assert "AccessDeniedException" in message  # moto's word for AWS's IncorrectKeyException


def test_the_encryption_context_goes_both_ways(moto: Moto) -> None:
    context = ["app=images", "stage=a=b"]
    provider = create("awskms", moto.options(**{"key": ALIAS, "encryption-context": context}))
    annotation = provider.wrap(OPTIONS, [])
    assert json.loads(annotation)["encryption_context_names"] == ["app", "stage"]
    assert b"images" not in annotation.replace(ALIAS.encode(), b"")
    assert provider.unwrap(annotation, []) == OPTIONS
    other = create("awskms", moto.options(**{"key": ALIAS, "encryption-context": ["app=other", "stage=a=b"]}))
    assert "InvalidCiphertextException" in message_of(lambda: other.unwrap(annotation, []))
    without = create("awskms", moto.options(key=ALIAS))
    assert "['app', 'stage']" in message_of(lambda: without.unwrap(annotation, []))
    assert "has []; configured is app, stage" in message_of(lambda: provider.unwrap(without.wrap(OPTIONS, []), []))


def test_the_context_is_sent(answers: Answers) -> None:
    answers.answer = lambda _headers, _body: (200, {"KeyId": ARN, "Plaintext": wire.encode_base64(OPTIONS)})
    provider = provider_of(answers, **{"encryption-context": ["app=images"]})
    assert provider.unwrap(make_annotation(ARN, encryption_context_names=["app"]), []) == OPTIONS
    assert answers.requests == [{"KeyId": ARN, "CiphertextBlob": "AAAA", "EncryptionContext": {"app": "images"}}]


@pytest.mark.parametrize("context", ["app", "app=", "=a", ["app=a", "app=b"], ["a=b\nc"]])
def test_malformed_contexts(context: object) -> None:
    with pytest.raises(UsageError, match="NAME=VALUE"):
        create("awskms", {"encryption-context": context})


@pytest.mark.parametrize(
    "key",
    ["", "alias/", "alias/a?b", "arn:aws:kms:eu-west-1:1:key/a", "arn:aws:s3:::a", f"{ARN}\n", "a b", "gcpkms://a"],
)
def test_only_the_name_of_a_key_is_asked_for(answers: Answers, key: str) -> None:
    provider = create("awskms", {"endpoint": answers.endpoint, "region": REGION})
    assert "is not a key ARN" in message_of(lambda: provider.unwrap(make_annotation(key), []))
    assert answers.requests == []
    if key:
        with pytest.raises(UsageError):
            create("awskms", {"key": key})


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        (b"{", "malformed"),
        (make_annotation(ARN, wrapped_key="!"), "malformed"),
        (make_annotation(ARN, wrapped_key=""), "no wrapped_key"),
        (make_annotation(ARN, wrap_type="AES"), "wrap_type"),
        (make_annotation(ARN, key_url=ARN), "awskms:// URL"),
        (make_annotation(ARN, key_url=""), "no key_url"),
        (make_annotation(ARN, encryption_context_names="app"), "malformed"),
        (make_annotation(ARN, encryption_context_names=[1]), "malformed"),
    ],
)
def test_malformed_annotations(answers: Answers, annotation: bytes, reason: str) -> None:
    assert reason in message_of(lambda: provider_of(answers).unwrap(annotation, []))
    assert answers.requests == []
