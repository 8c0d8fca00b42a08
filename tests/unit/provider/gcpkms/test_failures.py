"""Google Cloud KMS refuses, is slow, or answers with something else."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from decoder import limits
from decoder.provider import create
from tests.support.services.gcp_server import OTHER_KEY, Google, make_certificate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from decoder.provider.audit import Provider
from tests.support.services.gcpkms_parts import OPTIONS, OTHER_URI, URI, message_of, waiting


def abort(code: grpc.StatusCode, text: str, times: int = 1000) -> Callable[[grpc.ServicerContext], None]:
    left = iter(range(times))

    def before(context: grpc.ServicerContext) -> None:
        if next(left, None) is not None:
            context.abort(code, text)

    return before


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, "Permission 'cloudkms.cryptoKeyVersions.useToDecrypt' denied"),
        (grpc.StatusCode.FAILED_PRECONDITION, "cryptoKeyVersions/1 is not enabled, current state is: DISABLED."),
        (grpc.StatusCode.INTERNAL, "an internal error"),
    ],
)
def test_a_refusal_is_said_and_not_tried_again(
    google: Google, provider: Provider, code: grpc.StatusCode, text: str
) -> None:
    annotation = provider.wrap(OPTIONS, [])
    google.kms.calls.clear()
    google.kms.before = abort(code, text)
    message = message_of(google, lambda: provider.unwrap(annotation, []))
    assert code.name in message
    assert text in message
    assert len(google.kms.calls) == 1


def test_a_key_that_does_not_exist(google: Google) -> None:
    provider = create("gcpkms", google.options())
    message = message_of(google, lambda: provider.wrap(OPTIONS, [URI.replace("key1", "key9")]))
    assert "NOT_FOUND" in message
    assert "key9" in message


def test_a_ciphertext_of_another_key(google: Google, provider: Provider) -> None:
    annotation = json.loads(create("gcpkms", google.options(key=OTHER_URI)).wrap(OPTIONS, []))
    annotation["key_url"] = URI
    message = message_of(google, lambda: provider.unwrap(json.dumps(annotation).encode(), []))
    assert "Decryption failed" in message


def test_a_token_that_the_service_repeats_is_not_shown(google: Google, provider: Provider) -> None:
    def repeat(context: grpc.ServicerContext) -> None:
        headers = dict(context.invocation_metadata())
        context.abort(grpc.StatusCode.PERMISSION_DENIED, f"no: {headers['authorization']!s}")

    google.kms.before = repeat
    assert "PERMISSION_DENIED" in message_of(google, lambda: provider.wrap(OPTIONS, []))


@pytest.mark.parametrize("code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE])
def test_throttling_and_a_short_outage_pass(google: Google, provider: Provider, code: grpc.StatusCode) -> None:
    google.kms.before = abort(code, "later", times=2)
    annotation = provider.wrap(OPTIONS, [])
    assert len(google.kms.calls) == 3
    google.kms.before = abort(code, "later", times=2)
    assert provider.unwrap(annotation, []) == OPTIONS


def test_throttling_without_end(google: Google, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CLOUD_KMS_SECONDS", 2.0)
    google.kms.before = abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Quota exceeded for quota metric")
    start = time.monotonic()
    message = message_of(google, lambda: provider.wrap(OPTIONS, []))
    assert time.monotonic() - start < 15
    assert "RESOURCE_EXHAUSTED" in message
    assert "Quota exceeded" in message
    assert len(google.kms.calls) > 2


def test_an_outage_is_waited_for(google: Google, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CLOUD_KMS_SECONDS", 2.0)
    google.kms.before = abort(grpc.StatusCode.UNAVAILABLE, "The service is currently unavailable.")
    assert "UNAVAILABLE" in message_of(google, lambda: provider.wrap(OPTIONS, []))
    assert len(google.kms.calls) > 2


def test_nobody_listens(google: Google, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CLOUD_KMS_SECONDS", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    provider = create("gcpkms", google.options(key=URI, endpoint=f"localhost:{port}"))
    message = message_of(google, lambda: provider.wrap(OPTIONS, []))
    assert "UNAVAILABLE" in message
    assert str(port) in message


def test_a_service_that_hangs(google: Google, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CLOUD_KMS_SECONDS", 1.0)
    released = threading.Event()
    google.kms.before = waiting(released)
    start = time.monotonic()
    try:
        assert "no answer" in message_of(google, lambda: provider.wrap(OPTIONS, []))
    finally:
        released.set()
    assert time.monotonic() - start < 15


def change(name: str, value: object) -> Callable[[Any], None]:
    return lambda response: setattr(response, name, value)


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (change("verified_plaintext_crc32c", False), "did not verify"),
        (change("ciphertext_crc32c", 1), "checksum"),
        (change("ciphertext_crc32c", None), "checksum"),
        (change("ciphertext", b"damaged"), "checksum"),
        (change("name", f"{OTHER_KEY}/cryptoKeyVersions/1"), "another key"),
    ],
)
def test_damaged_replies_to_encrypt(
    google: Google, provider: Provider, alter: Callable[[Any], None], reason: str
) -> None:
    google.kms.alter = alter
    assert reason in message_of(google, lambda: provider.wrap(OPTIONS, []))


def test_an_empty_ciphertext(google: Google, provider: Provider) -> None:
    def alter(response: Any) -> None:
        response.ciphertext, response.ciphertext_crc32c = b"", 0

    google.kms.alter = alter
    assert "Cloud KMS's ciphertext has 0 bytes" in message_of(google, lambda: provider.wrap(OPTIONS, []))


@pytest.mark.parametrize(
    "alter", [change("plaintext_crc32c", 1), change("plaintext_crc32c", None), change("plaintext", OPTIONS[:-1])]
)
def test_damaged_replies_to_decrypt(google: Google, provider: Provider, alter: Callable[[Any], None]) -> None:
    annotation = provider.wrap(OPTIONS, [])
    google.kms.alter = alter
    assert "checksum" in message_of(google, lambda: provider.unwrap(annotation, []))


def test_a_reply_that_is_too_long(google: Google, provider: Provider) -> None:
    google.kms.alter = change("ciphertext", bytes(4 * limits.PROVIDER_WRAPPED_BYTES))
    assert "larger than max" in message_of(google, lambda: provider.wrap(OPTIONS, []))
    assert len(google.kms.calls) == 1


def test_options_that_cloud_kms_does_not_take(google: Google, provider: Provider) -> None:
    message = message_of(google, lambda: provider.wrap(bytes(limits.GCP_KMS_PLAINTEXT_BYTES + 1), []))
    assert "at most 65536 bytes" in message


def test_a_certificate_of_an_unknown_ca(google: Google, tmp_path: Path) -> None:
    other, _ = make_certificate(tmp_path, "localhost")
    start = time.monotonic()
    provider = create("gcpkms", google.options(**{"key": URI, "ca-file": str(other)}))
    assert "certificate" in message_of(google, lambda: provider.wrap(OPTIONS, []))
    assert google.kms.calls == []
    assert time.monotonic() - start < 15


def test_a_certificate_of_another_name(google: Google) -> None:
    provider = create("gcpkms", google.options(key=URI, endpoint=google.endpoint.replace("localhost", "127.0.0.1")))
    assert "certificate" in message_of(google, lambda: provider.wrap(OPTIONS, []))
    assert google.kms.calls == []


def test_whether_the_service_can_be_reached(google: Google, provider: Provider) -> None:
    provider.reach(60)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and refuses connections
        other = create("gcpkms", {**google.options(), "endpoint": f"127.0.0.1:{bound.getsockname()[1]}"})
        assert message_of(google, lambda: other.reach(60)) == "no connection: Connection refused"
