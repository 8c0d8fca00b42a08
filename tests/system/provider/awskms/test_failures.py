"""AWS KMS refuses, is slow, or answers with something else."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from decoder import limits
from decoder.formats import wire
from tests.support.services.aws_server import REGION, Answers, running_answers

if TYPE_CHECKING:
    from collections.abc import Callable
from tests.support.services.awskms_parts import ARN, OPTIONS, make_annotation, message_of, provider_of

OTHER_ARN = f"arn:aws:kms:{REGION}:123456789012:key/6b0b4a4f-0b4a-4b6a-9c3e-222222222222"


def fail(kind: str, text: str = "", status: int = 400, times: int = 1000) -> Callable[[Any, Any], tuple[int, object]]:
    """Answer with AWS's error; after some times, with a plaintext."""
    left = iter(range(times))

    def answer(_headers: object, _body: object) -> tuple[int, object]:
        if next(left, None) is not None:
            return status, {"__type": kind, "message": text}
        return 200, {"KeyId": ARN, "Plaintext": wire.encode_base64(OPTIONS)}

    return answer


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (
            "AccessDeniedException",
            "User: arn:aws:iam::123456789012:user/node is not authorized to perform: kms:Decrypt",
        ),
        ("DisabledException", f"{ARN} is disabled."),
        ("KMSInvalidStateException", f"{ARN} is pending deletion."),
        ("NotFoundException", f"Key '{ARN}' does not exist"),
        ("IncorrectKeyException", "The key ID in the request does not identify the key that can decrypt."),
        ("UnrecognizedClientException", "The security token included in the request is invalid."),
    ],
)
def test_a_refusal_is_said_and_not_tried_again(answers: Answers, kind: str, text: str) -> None:
    answers.answer = fail(kind, text)
    message = message_of(lambda: provider_of(answers).unwrap(make_annotation(ARN), []))
    assert kind in message
    assert text.replace("'", "")[:40] in message.replace("'", "")
    assert len(answers.requests) == 1


def test_a_message_that_repeats_the_request_is_not_shown(answers: Answers) -> None:
    def repeat(headers: Any, _body: object) -> tuple[int, object]:
        text = f"The request signature does not match. Canonical: {headers['X-Amz-Security-Token']}"
        return 403, {"__type": "InvalidSignatureException", "message": text}

    answers.answer = repeat
    assert message_of(lambda: provider_of(answers).wrap(OPTIONS, [])).endswith("AWS KMS: InvalidSignatureException")


def test_throttling_passes(answers: Answers) -> None:
    answers.answer = fail("ThrottlingException", "Rate exceeded", times=2)
    assert provider_of(answers).unwrap(make_annotation(ARN), []) == OPTIONS
    assert len(answers.requests) == 3


def test_throttling_without_end(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CLOUD_KMS_SECONDS", 3.0)
    answers.answer = fail("ThrottlingException", "Rate exceeded")
    message = message_of(lambda: provider_of(answers).unwrap(make_annotation(ARN), []))
    assert "ThrottlingException: 'Rate exceeded'" in message
    assert len(answers.requests) > 1  # it was tried again


@pytest.mark.parametrize(("kind", "status"), [("x", 503), ("x", 429), ("KMSInternalException", 500)])
def test_an_outage_passes(answers: Answers, kind: str, status: int) -> None:
    answers.answer = fail(kind, status=status, times=2)
    assert provider_of(answers).unwrap(make_annotation(ARN), []) == OPTIONS
    assert len(answers.requests) == 3


def test_an_endpoint_that_refuses_connections_for_a_while(answers: Answers) -> None:
    with running_answers(refusing_seconds=2) as late:
        late.answer = fail("", times=0)
        assert provider_of(late).unwrap(make_annotation(ARN), []) == OPTIONS
    assert not answers.requests


@pytest.mark.parametrize("slow", ["CLOUD_KMS_SECONDS", "CLOUD_KMS_READ_SECONDS"])
def test_a_service_that_hangs(answers: Answers, monkeypatch: pytest.MonkeyPatch, slow: str) -> None:
    monkeypatch.setattr(limits, slow, 1.0)
    released = threading.Event()

    def wait(_headers: object, _body: object) -> tuple[int, object]:
        released.wait(120)
        return 500, {}

    answers.answer = wait
    start = time.monotonic()
    try:
        assert "no answer" in message_of(lambda: provider_of(answers).unwrap(make_annotation(ARN), []))
    finally:
        released.set()
    assert time.monotonic() - start < 8


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ({"KeyId": OTHER_ARN, "Plaintext": "AAAA"}, "another key"),
        ({"Plaintext": "AAAA"}, "another key"),
        ({"KeyId": ARN}, "no result"),
        ({"KeyId": ARN, "Plaintext": ""}, "no result"),
        ({"KeyId": ARN, "Plaintext": wire.encode_base64(bytes(limits.PROVIDER_WRAPPED_BYTES + 1))}, "too long"),
        ({"KeyId": [], "Plaintext": "AAAA"}, "another key"),
        ({"KeyId": ARN, "Plaintext": "A"}, "malformed"),
        ({"KeyId": ARN, "Plaintext": 5}, "malformed"),
        (b"<html>no KMS</html>", "no result"),
        (b"[]", "malformed"),
        (b"", "no result"),
    ],
)
def test_replies_that_are_not_what_was_asked(answers: Answers, reply: object, reason: str) -> None:
    answers.answer = lambda _headers, _body: (200, reply)
    assert reason in message_of(lambda: provider_of(answers).unwrap(make_annotation(ARN), []))


def test_a_key_id_is_compared_with_the_reply(answers: Answers) -> None:
    key_id = ARN.rpartition("/")[2]
    answers.answer = lambda _headers, _body: (200, {"KeyId": OTHER_ARN, "Plaintext": "AAAA"})
    provider = provider_of(answers, key=key_id, region=REGION)
    assert "another key" in message_of(lambda: provider.unwrap(make_annotation(key_id), []))
