"""The provider for AWS KMS, through boto3: against moto, and against a server that fails in AWS's words."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from decoder import limits
from decoder.errors import UsageError
from decoder.formats import wire
from decoder.layer import annotations as layer
from decoder.node import journal
from decoder.provider import create
from decoder.provider.client import protocol
from decoder.provider.errors import ProviderError
from tests.support.aws_server import (
    ACCESS_KEY,
    REGION,
    SECRET_KEY,
    SESSION_TOKEN,
    Answers,
    kms_client,
    running_answers,
    running_moto,
    use_test_account,
)

if TYPE_CHECKING:
    from decoder.provider.audit import Provider

LAYER_KEY = bytes(range(100, 132))
OPTIONS = layer.build_private_options(layer.PrivateOptions(LAYER_KEY, bytes(16), "sha256:" + "0" * 64))
ARN = f"arn:aws:kms:{REGION}:123456789012:key/6b0b4a4f-0b4a-4b6a-9c3e-111111111111"
OTHER_ARN = f"arn:aws:kms:{REGION}:123456789012:key/6b0b4a4f-0b4a-4b6a-9c3e-222222222222"
ALIAS = "alias/images"


class Moto:
    """Moto's server with two keys, the first of which has an alias."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        client = kms_client(endpoint)
        self.arn, self.other_arn = (client.create_key()["KeyMetadata"]["Arn"] for _ in range(2))
        self.key_id = self.arn.rpartition("/")[2]
        client.create_alias(AliasName=ALIAS, TargetKeyId=self.key_id)
        client.close()

    def options(self, **more: object) -> dict[str, object]:
        return {"endpoint": self.endpoint, "region": REGION, **more}


@pytest.fixture(scope="module")
def moto() -> Iterator[Moto]:
    with running_moto() as endpoint:
        yield Moto(endpoint)


@pytest.fixture
def answers() -> Iterator[Answers]:
    with running_answers() as running:
        yield running


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_test_account(monkeypatch, tmp_path)
    monkeypatch.setenv("AWS_SESSION_TOKEN", SESSION_TOKEN)


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts: list[str] = []
    monkeypatch.setattr(journal, "warn", texts.append)
    return texts


def message_of(work: Callable[[], object]) -> str:
    """Run what must fail, and give its message, which holds no secret."""
    with pytest.raises(ProviderError) as caught:
        work()
    text = str(caught.value)
    secrets = [SECRET_KEY, SESSION_TOKEN, wire.encode_base64(LAYER_KEY), wire.encode_base64(OPTIONS)[:40]]
    assert not [secret for secret in secrets if secret in text or secret in repr(caught.value)]
    assert len(text) < limits.PROVIDER_ERROR_BYTES
    assert "\n" not in text
    return text


def make_annotation(key: str, **more: object) -> bytes:
    value = {"key_url": f"awskms://{key}", "wrapped_key": "AAAA", "wrap_type": "AWSKMS", **more}
    return json.dumps(value).encode()


def provider_of(answers: Answers, **more: object) -> Provider:
    return create("awskms", {"endpoint": answers.endpoint, "key": ARN, **more})


def fail(kind: str, text: str = "", status: int = 400, times: int = 1000) -> Callable[[Any, Any], tuple[int, object]]:
    """Answer with AWS's error; after some times, with a plaintext."""
    left = iter(range(times))

    def answer(_headers: object, _body: object) -> tuple[int, object]:
        if next(left, None) is not None:
            return status, {"__type": kind, "message": text}
        return 200, {"KeyId": ARN, "Plaintext": wire.encode_base64(OPTIONS)}

    return answer


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
    monkeypatch.setattr(limits, "CLOUD_KMS_ATTEMPTS", 3)
    answers.answer = fail("ThrottlingException", "Rate exceeded")
    message = message_of(lambda: provider_of(answers).unwrap(make_annotation(ARN), []))
    assert "ThrottlingException: 'Rate exceeded'" in message
    assert len(answers.requests) == 3


@pytest.mark.parametrize("slow", ["CLOUD_KMS_SECONDS", "CLOUD_KMS_READ_SECONDS"])
def test_a_service_that_hangs(answers: Answers, monkeypatch: pytest.MonkeyPatch, slow: str) -> None:
    monkeypatch.setattr(limits, slow, 1.0)
    monkeypatch.setattr(limits, "CLOUD_KMS_ATTEMPTS", 1)
    released = threading.Event()

    def wait(_headers: object, _body: object) -> tuple[int, object]:
        released.wait(20)
        return 500, {}

    answers.answer = wait
    start = time.monotonic()
    try:
        assert "no answer" in message_of(lambda: provider_of(answers).unwrap(make_annotation(ARN), []))
    finally:
        released.set()
    assert time.monotonic() - start < 4


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


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
    provider = create("awskms", {"endpoint": endpoint, "key": ARN})
    assert "the endpoint cannot be reached" in message_of(lambda: provider.wrap(OPTIONS, []))


def test_the_wrong_region(moto: Moto) -> None:
    provider = create("awskms", moto.options(region="us-east-2", key=ALIAS))
    assert "NotFoundException" in message_of(lambda: provider.wrap(OPTIONS, []))


def test_no_region(moto: Moto) -> None:
    options = moto.options(key=ALIAS)
    del options["region"]
    assert "no region is known" in message_of(lambda: create("awskms", options).wrap(OPTIONS, []))


def test_the_region_of_an_arn(moto: Moto) -> None:
    options = moto.options(key=moto.arn)
    del options["region"]
    provider = create("awskms", options)
    assert provider.unwrap(provider.wrap(OPTIONS, []), []) == OPTIONS


def test_no_credentials(moto: Moto, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    provider = create("awskms", moto.options(key=ALIAS))
    assert "there are no AWS credentials" in message_of(lambda: provider.wrap(OPTIONS, []))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    provider = create("awskms", moto.options(key=ALIAS))
    assert "the AWS credentials are incomplete" in message_of(lambda: provider.wrap(OPTIONS, []))


def test_a_profile_has_the_credentials(moto: Moto, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    credentials = f"[images]\naws_access_key_id={ACCESS_KEY}\naws_secret_access_key={SECRET_KEY}\n"
    (tmp_path / "credentials").write_text(credentials)
    (tmp_path / "config").write_text(f"[profile images]\nregion={REGION}\n")
    options = {"endpoint": moto.endpoint, "key": ALIAS, "profile": "images"}
    provider = create("awskms", options)
    assert provider.unwrap(provider.wrap(OPTIONS, []), []) == OPTIONS
    assert "the AWS profile does not exist" in message_of(lambda: create("awskms", {**options, "profile": "other"}))


def test_options_that_kms_does_not_take(answers: Answers) -> None:
    message = message_of(lambda: provider_of(answers).wrap(bytes(limits.AWS_KMS_PLAINTEXT_BYTES + 1), []))
    assert "at most 4096 bytes" in message
    assert answers.requests == []


def test_the_most_that_kms_takes(moto: Moto) -> None:
    provider = create("awskms", moto.options(key=ALIAS))
    longest = bytes(limits.AWS_KMS_PLAINTEXT_BYTES)
    assert provider.unwrap(provider.wrap(longest, []), []) == longest


@pytest.mark.parametrize(
    "endpoint", ["http://kms.example", "https://user:word@kms.example", "kms.example", "http://[", "file:///etc"]
)
def test_endpoints_that_would_show_the_key(endpoint: str) -> None:
    with pytest.raises(UsageError, match="https://") as caught:
        create("awskms", {"endpoint": endpoint})
    assert "word" not in str(caught.value)


def test_operations_at_the_same_time(moto: Moto) -> None:
    provider = create("awskms", moto.options(key=ALIAS))
    results: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: results.append(provider.unwrap(provider.wrap(OPTIONS, []), [])))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [OPTIONS] * 8


def test_as_a_command(moto: Moto) -> None:
    command = [sys.executable, "-m", "decoder", "keyprovider", "run", "--provider", "awskms", "--key", ALIAS]
    flags = ["--region", REGION, "--endpoint", moto.endpoint, "--encryption-context=a=b", "--encryption-context=c=d"]

    def run(request: bytes) -> bytes:
        done = subprocess.run([*command, *flags], input=request, capture_output=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout

    wrapped = run(protocol.build_request("keywrap", OPTIONS, "aws", [b"Enabled"]))
    annotation = protocol.parse_reply("keywrap", wrapped)
    assert json.loads(annotation)["encryption_context_names"] == ["a", "c"]
    unwrapped = run(protocol.build_request("keyunwrap", annotation, "aws", []))
    assert protocol.parse_reply("keyunwrap", unwrapped) == OPTIONS


def test_without_the_library() -> None:
    script = (
        "import sys; sys.modules['botocore.session'] = None\n"
        "from decoder.provider import create\n"
        "from decoder.provider.errors import ProviderError\n"
        "try: create('awskms', {})\n"
        "except ProviderError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "-m pip install 'ctd-decoder[aws] @ " in done.stdout


def test_the_library_is_loaded_when_it_is_used_alone() -> None:
    script = (
        "import sys; from decoder.provider import options_of; options_of('awskms')\n"
        "print([name for name in ('boto3', 'botocore', 'urllib3') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
