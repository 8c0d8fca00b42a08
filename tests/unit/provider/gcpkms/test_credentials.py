"""Credentials for Google Cloud KMS, and the command."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from decoder import limits
from decoder.provider import create
from decoder.provider.client import protocol
from decoder.provider.services.gcpkms import crc32c
from tests.support.services.gcp_server import Google, reply

if TYPE_CHECKING:
    from pathlib import Path

    from decoder.provider.audit import Provider
from tests.support.services.gcpkms_parts import OPTIONS, URI, message_of, waiting


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
    assert time.monotonic() - start < 15


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


def test_a_file_that_is_too_long(google: Google, tmp_path: Path) -> None:
    file = tmp_path / "adc.json"
    file.write_bytes(b" " * (limits.PROVIDER_FILE_BYTES + 1))
    for option in ("adc", "ca-file"):
        told = message_of(google, partial(create, "gcpkms", google.options(**{option: str(file)})))
        assert told == f"the file '{file}' is longer than {limits.PROVIDER_FILE_BYTES} bytes"


def test_the_login_of_gcloud(google: Google, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing else is set, the library finds the file that `gcloud auth application-default login` writes."""
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "project1")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    (tmp_path / "application_default_credentials.json").write_bytes(google.account.file.read_bytes())
    options = {name: value for name, value in google.options(key=URI).items() if name != "adc"}
    provider = create("gcpkms", options)
    assert provider.unwrap(provider.wrap(OPTIONS, []), []) == OPTIONS
