"""Regions, credentials, endpoints, and the command."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from decoder import limits
from decoder.errors import UsageError
from decoder.provider import create
from decoder.provider.client import protocol
from tests.support.services.aws_server import (
    ACCESS_KEY,
    REGION,
    SECRET_KEY,
    Answers,
)

if TYPE_CHECKING:
    from pathlib import Path
from tests.support.services.awskms_parts import ALIAS, ARN, OPTIONS, Moto, message_of, provider_of


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CLOUD_KMS_SECONDS", 5.0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
    provider = create("awskms", {"endpoint": endpoint, "key": ARN})
    assert "the endpoint cannot be reached" in message_of(lambda: provider.wrap(OPTIONS, []))


def test_whether_the_endpoint_can_be_reached(moto: Moto) -> None:
    create("awskms", moto.options(key=ARN)).reach(60)
    create("awskms", {"key": ALIAS}).reach(60)  # no region is known, so there is nothing to reach
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and refuses connections
        provider = create("awskms", {"endpoint": f"http://127.0.0.1:{bound.getsockname()[1]}", "key": ARN})
        assert message_of(lambda: provider.reach(60)) == "no connection: Connection refused"


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
