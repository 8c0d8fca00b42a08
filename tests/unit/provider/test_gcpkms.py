"""The provider for Google Cloud KMS, through Google's own client library against servers on the loopback interface."""

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

import grpc
import pytest

from decoder import limits
from decoder.errors import UsageError
from decoder.formats import wire
from decoder.layer import annotations as layer
from decoder.node import journal
from decoder.provider import create
from decoder.provider.client import protocol
from decoder.provider.errors import ProviderError
from decoder.provider.services.gcpkms import crc32c
from tests.support.gcp_server import KEY, OTHER_KEY, Google, make_certificate, reply, running_google

if TYPE_CHECKING:
    from decoder.provider.audit import Provider

URI = f"gcpkms://{KEY}"
OTHER_URI = f"gcpkms://{OTHER_KEY}"
LAYER_KEY = bytes(range(100, 132))
OPTIONS = layer.build_private_options(layer.PrivateOptions(LAYER_KEY, bytes(16), "sha256:" + "0" * 64))


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Google]:
    with running_google(tmp_path_factory.mktemp("google")) as google:
        yield google


@pytest.fixture
def google(servers: Google) -> Google:
    servers.kms.calls.clear()
    servers.kms.before = lambda _: None
    servers.kms.alter = lambda _: None
    servers.account.answer = servers.account.give_token
    servers.account.assertions.clear()
    return servers


@pytest.fixture
def provider(google: Google) -> Provider:
    return create("gcpkms", google.options(key=URI))


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts: list[str] = []
    monkeypatch.setattr(journal, "warn", texts.append)
    return texts


def message_of(google: Google, work: Callable[[], object]) -> str:
    """Run what must fail, and give its message, which holds no secret."""
    with pytest.raises(ProviderError) as caught:
        work()
    text = str(caught.value)
    private_key = json.loads(google.account.file.read_text())["private_key"].splitlines()[1]
    secrets = [*google.account.tokens, *google.account.assertions, private_key, wire.encode_base64(LAYER_KEY)]
    assert not [secret for secret in secrets if secret[:30] in text + repr(caught.value)]
    assert len(text) < limits.PROVIDER_ERROR_BYTES
    assert "\n" not in text
    return text


def abort(code: grpc.StatusCode, text: str, times: int = 1000) -> Callable[[grpc.ServicerContext], None]:
    left = iter(range(times))

    def before(context: grpc.ServicerContext) -> None:
        if next(left, None) is not None:
            context.abort(code, text)

    return before


def waiting(released: threading.Event) -> Callable[[object], None]:
    def wait(_: object) -> None:
        released.wait(20)

    return wait


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
    assert time.monotonic() - start < 3
    assert "RESOURCE_EXHAUSTED" in message
    assert "Quota exceeded" in message
    assert len(google.kms.calls) > 2


def test_an_outage_is_not_waited_for(google: Google, provider: Provider) -> None:
    google.kms.before = abort(grpc.StatusCode.UNAVAILABLE, "The service is currently unavailable.")
    assert "UNAVAILABLE" in message_of(google, lambda: provider.wrap(OPTIONS, []))
    assert len(google.kms.calls) == limits.CLOUD_KMS_ATTEMPTS


def test_nobody_listens(google: Google) -> None:
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
    assert time.monotonic() - start < 3


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
    assert time.monotonic() - start < 5


def test_a_certificate_of_another_name(google: Google) -> None:
    provider = create("gcpkms", google.options(key=URI, endpoint=google.endpoint.replace("localhost", "127.0.0.1")))
    assert "certificate" in message_of(google, lambda: provider.wrap(OPTIONS, []))
    assert google.kms.calls == []


def test_the_token_endpoint_refuses_the_account(google: Google, provider: Provider) -> None:
    def refuse(request: Any) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"])).decode()
        google.account.assertions.append(body.partition("assertion=")[2].partition("&")[0])
        reply(request, 400, {"error": "invalid_grant", "error_description": f"account not found {body}"})

    google.account.answer = refuse
    message = message_of(google, lambda: provider.wrap(OPTIONS, []))
    assert "invalid_grant: account not found" in message
    assert len(google.account.assertions) == 1
    assert len(google.account.assertions[0]) > 100


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize(
    "value", [{"id_token": "secret-of-the-endpoint"}, ["secret-of-the-endpoint"], "secret-of-the-"]
)
def test_the_token_endpoint_says_nothing_useful(google: Google, provider: Provider, status: int, value: object) -> None:
    google.account.answer = lambda request: reply(request, status, value)
    message = message_of(google, lambda: provider.wrap(OPTIONS, []))
    assert "got no token" in message
    assert "secret-of-the-" not in message


def test_the_token_endpoint_is_down(google: Google, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    account = {**json.loads(google.account.file.read_text()), "token_uri": f"http://127.0.0.1:{port}/token"}
    file = tmp_path / "adc.json"
    file.write_text(json.dumps(account))
    provider = create("gcpkms", google.options(key=URI, adc=str(file)))
    assert "token service" in message_of(google, lambda: provider.wrap(OPTIONS, []))


def test_the_token_endpoint_hangs(google: Google, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CLOUD_KMS_SECONDS", 1.0)
    released = threading.Event()
    google.account.answer = waiting(released)
    start = time.monotonic()
    try:
        message = message_of(google, lambda: provider.wrap(OPTIONS, []))
    finally:
        released.set()
    assert "within 1 seconds" in message or "token service" in message
    assert time.monotonic() - start < 3


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"type":"service_account"}',
        b'{"type":"service_account","client_email":"a","token_uri":"http://127.0.0.1","private_key":"secret-1"}',
        b'{"type":"external_account"}',
        b'{"type":"authorized_user","refresh_token":"secret-1"}',
    ],
)
def test_files_that_are_no_credentials(google: Google, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "adc.json"
    file.write_bytes(content)
    message = message_of(google, lambda: create("gcpkms", google.options(adc=str(file))))
    assert "adc.json" in message
    assert "secret-1" not in message


@pytest.mark.parametrize("option", ["adc", "ca-file"])
def test_files_that_cannot_be_read(google: Google, tmp_path: Path, option: str) -> None:
    options = google.options(**{option: str(tmp_path / "missing")})
    assert "missing' cannot be read: No such file" in message_of(google, lambda: create("gcpkms", options))


def test_the_environment_names_the_credentials(google: Google, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(google.account.file))
    options = google.options(key=URI)
    del options["adc"]
    provider = create("gcpkms", options)
    assert provider.unwrap(provider.wrap(OPTIONS, []), []) == OPTIONS


def test_without_credentials(google: Google, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    options = google.options(key=URI)
    del options["adc"]
    assert "no Google credentials" in message_of(google, lambda: create("gcpkms", options).wrap(OPTIONS, []))


def run_command(google: Google, request: bytes, *more: str) -> subprocess.CompletedProcess[bytes]:
    """Run the provider as a command, with the flags that people have for the published one."""
    command = [sys.executable, "-m", "decoder", "keyprovider", "run", "--provider", "gcpkms"]
    flags = [f"--adc={google.account.file}", f"--kmsURI={URI}", "--endpoint", google.endpoint, *more]
    return subprocess.run([*command, *flags], input=request, capture_output=True, timeout=60, check=False)


def test_as_a_command(google: Google) -> None:
    trusting = ("--ca-file", str(google.ca_file))
    wrapped = run_command(google, protocol.build_request("keywrap", OPTIONS, "kmscrypt", [b"gcpkms://any"]), *trusting)
    assert (wrapped.returncode, wrapped.stderr) == (0, b"")
    annotation = protocol.parse_reply("keywrap", wrapped.stdout)
    assert json.loads(annotation)["key_url"] == URI
    unwrapped = run_command(google, protocol.build_request("keyunwrap", annotation, "kmscrypt", []), *trusting)
    assert (unwrapped.returncode, unwrapped.stderr) == (0, b"")
    assert protocol.parse_reply("keyunwrap", unwrapped.stdout) == OPTIONS


def test_a_command_says_one_thing(google: Google) -> None:
    failed = run_command(google, protocol.build_request("keywrap", OPTIONS, "kmscrypt", []))
    assert failed.returncode == 6
    assert failed.stderr.count(b"\n") == 1, failed.stderr.decode()
    assert b"certificate" in failed.stderr


def test_without_the_library(google: Google) -> None:
    script = (
        "import sys; sys.modules['google.cloud.kms_v1'] = None\n"
        "from decoder.provider import create\n"
        "from decoder.provider.errors import ProviderError\n"
        "try: create('gcpkms', {})\n"
        "except ProviderError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "-m pip install 'ctd-decoder[gcp] @ " in done.stdout


def test_the_library_is_loaded_when_it_is_used_alone() -> None:
    script = (
        "import sys; from decoder.provider import options_of; options_of('gcpkms')\n"
        "print([name for name in ('grpc', 'google.auth', 'google.cloud.kms_v1', 'requests') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # this and the next two: RFC 3720 appendix B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_crc32c(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected
