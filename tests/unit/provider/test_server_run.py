"""`ctd-decoder keyprovider run`, and the command line of both verbs."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from decoder import limits
from tests.support.program.processes import ROOT
from tests.support.provider.serving import KEYPROVIDER, execute, request_of, result_of, write_key

OPTIONS = b'{"symkey":"c2VjcmV0","digest":"sha256:0","cipheroptions":{}}'
REQUESTS = json.loads((ROOT / "tests/support/provider/requests.json").read_bytes())
LOCAL = ("run", "--provider", "local")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return write_key(tmp_path / "sample.key")


def test_wraps_and_unwraps(key: Path) -> None:
    wrapped = execute(*LOCAL, "--key", key, request=request_of("keywrap", OPTIONS))
    assert (wrapped.returncode, wrapped.stderr) == (0, b"")
    annotation = result_of(wrapped.stdout)
    opened = execute(*LOCAL, "--key", key, request=request_of("keyunwrap", annotation))
    assert (opened.returncode, opened.stderr, result_of(opened.stdout)) == (0, b"", OPTIONS)


@pytest.mark.parametrize("case", REQUESTS, ids=[case["name"] for case in REQUESTS])
def test_requests_of_every_client(key: Path, case: dict[str, Any]) -> None:
    answered = execute(*LOCAL, "--key", key, request=json.dumps(case["request"]).encode())
    assert (answered.returncode, answered.stderr) == (0, b"")
    result = result_of(answered.stdout)
    if case["request"]["op"] == "keywrap":
        answered = execute(*LOCAL, "--key", key, request=request_of("keyunwrap", result))
        result = result_of(answered.stdout)
    assert result == case["options"].encode()


@pytest.mark.parametrize(
    "form", [["-provider=local", "-key={}"], ["-provider", "local", "-key", "{}"], ["--provider=local", "--key={}"]]
)
def test_options_as_go_takes_them(key: Path, form: list[str]) -> None:
    answered = execute("run", *(text.format(key) for text in form), request=request_of("keywrap", OPTIONS))
    assert (answered.returncode, answered.stderr) == (0, b"")


def test_the_flags_of_the_published_google_provider() -> None:
    """They are taken, whatever becomes of them without a Google to ask."""
    answered = execute("run", "--provider=gcpkms", "-adc=/missing.json", "-kmsURI=gcpkms://projects/p", "-x=1")
    assert (answered.returncode, answered.stdout) == (2, b"")
    assert b"unknown option '--x'" in answered.stderr


def test_several_providers_in_one_request(key: Path) -> None:
    parameters = {"kmscrypt": ["local://sample.key"], "attestation-agent": ["keyid=x"], "pubkeys": ["PEM"]}
    request = request_of("keywrap", OPTIONS, parameters)
    undecided = execute(*LOCAL, "--key", key, request=request)
    assert (undecided.returncode, undecided.stdout) == (6, b"")
    assert b"'attestation-agent', 'kmscrypt': name this provider with --provider-name" in undecided.stderr
    named = execute(*LOCAL, "--key", key, "--provider-name", "kmscrypt", request=request)
    assert (named.returncode, named.stderr) == (0, b"")


def test_allow_key_may_be_repeated(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_key(tmp_path / name)
    allowed = ("--keys", tmp_path, "--allow-key", "local://a", "--allow-key=local://b")
    statuses = [
        execute(*LOCAL, *allowed, request=request_of("keywrap", OPTIONS, {"p": [name]})).returncode for name in "abc"
    ]
    assert statuses == [0, 0, 6]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["walk"], "unknown word 'walk'; expected run, serve, attestation-agent"),
        (["run"], "--provider is missing"),
        (["run", "--provider"], "expected one argument"),
        (["run", "--provider", "nobody"], "there is no provider 'nobody'"),
        (["run", "--provider", "local"], "one of the options key and keys"),
        (["run", "--provider", "local", "--kee=SECRET"], "unknown option '--kee'"),
        (["run", "--provider", "local", "--kee", "SECRET"], "unknown option '--kee'"),
        (["run", "--provider", "local", "--key"], "expected one argument"),
        (["run", "--provider", "local", "--listen", "127.0.0.1:0"], "unknown option '--listen'"),
        (["run", "--provider", "local", "name=SECRET"], "unexpected argument 'name'"),
        (["run", "--prov", "local"], "--provider is missing"),
        (["serve", "--provider", "local", "--key", "x"], "--listen is missing"),
    ],
)
def test_usage(arguments: list[str], text: str) -> None:
    result = execute(*arguments)
    assert (result.returncode, result.stdout) == (2, b"")
    assert text in result.stderr.decode()
    assert b"SECRET" not in result.stderr
    assert result.stderr.count(b"\n") == 1


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["run", "--help"], ["serve", "-h"]])
def test_help_without_a_provider(arguments: list[str]) -> None:
    result = execute(*arguments)
    assert (result.returncode, result.stderr) == (0, b"")
    assert b"gcpkms, awskms, azurekv, openbao, local, pkcs11" in result.stdout


@pytest.mark.parametrize(("verb", "listens"), [("run", False), ("serve", True)])
def test_help_lists_the_options_of_a_provider(verb: str, listens: bool) -> None:
    text = execute(verb, "--provider", "local", "--help").stdout.decode()
    assert all(option in text for option in ("--key VALUE", "--keys VALUE", "--allow-key VALUE", "--provider-name"))
    assert ("--listen" in text) == listens


@pytest.mark.parametrize(
    ("request_text", "text"),
    [
        (b"", "not JSON"),
        (b"{}", "neither keywrap nor keyunwrap"),
        (b"[]", "instead of an object"),
        (b'{"op":"keywrap"}', "no optsdata"),
        (b'{"op":"keyunwrap","keyunwrapparams":{"annotation":"%"}}', "not base64"),
        (b'{"op":"keyunwrap","keyunwrapparams":{"annotation":[256]}}', "other than bytes"),
        (request_of("keyunwrap", b"{}"), "wrap_type"),
        (request_of("keywrap", b"x" * (limits.PRIVATE_OPTIONS_BYTES + 1)), "private options are longer"),
        (b" " * (limits.PROVIDER_MESSAGE_BYTES + 1), "longer than"),
        (b'{"op":"keyunwrap","keyunwrapparams":{"dc":{"Parameters":{"x":[[255]]}},"annotation":"e30="}}', "not UTF-8"),
    ],
)
def test_failures(key: Path, request_text: bytes, text: str) -> None:
    result = execute(*LOCAL, "--key", key, request=request_text)
    assert (result.returncode, result.stdout) == (6, b"")
    assert text in result.stderr.decode()
    assert result.stderr.count(b"\n") == 1


def test_a_request_that_does_not_end(key: Path) -> None:
    read, write = os.pipe()
    try:
        result = subprocess.run(
            [*KEYPROVIDER, *LOCAL, "--key", key],
            stdin=read,
            capture_output=True,
            timeout=120,
            env={**os.environ, "PRELUDE": "limits.PROVIDER_REQUEST_SECONDS = 0.2"},
            check=False,
        )
    finally:
        os.close(read)
        os.close(write)
    assert (result.returncode, result.stdout) == (6, b"")
    assert b"no request came within" in result.stderr


@pytest.mark.parametrize(("place", "stream"), [("stdin", b"standard input"), ("stdout", b"standard output")])
def test_streams_that_fail(place: str, stream: bytes, key: Path) -> None:
    """What is open for writing alone cannot be read, and nothing fits on a full device."""
    request = request_of("keywrap", b"{}")
    with open("/dev/full", "wb") as full:
        how: dict[str, Any] = {"stdin": full} if place == "stdin" else {"input": request, "stdout": full}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
        done = subprocess.run([*KEYPROVIDER, *LOCAL, "--key", key], timeout=120, check=False, **pipes)
    assert done.returncode == 7
    assert done.stderr.startswith(b"ctd-decoder: error: %s: " % stream)
