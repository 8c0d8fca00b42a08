"""CTD_DECODER_DEBUG=1 shows where a failure was raised, for each scheme, and no secret."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.keywrap.layers import encrypted
from tests.support.keywrap.pkcs11_parts import recipient, wrapped_json
from tests.support.keywrap.vectors import CASES, run_case
from tests.support.program.onelayer import PLAINTEXT, run_layer
from tests.support.provider.client_parts import configuration

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.program.processes import Result

DEBUG = {"CTD_DECODER_DEBUG": "1"}
SECRET = "a-secret-that-nobody-prints"
FAILING = [case for case in CASES if case["expect"] == "fail"]


def frames(result: Result) -> str:
    """Return the output before the message, which has lines of places alone: no text of an exception, and no value."""
    shown, message = result.errors.split("ctd-decoder: error: ")
    assert message
    for line in shown.splitlines():
        assert re.fullmatch(r"(\S+\[\d+\]: )?\w+, most recent call last:|  [\w.<>]+:\d+ in [\w<>]+", line), line
    return shown


@pytest.mark.parametrize("case", FAILING, ids=[case["name"] for case in FAILING])
def test_a_vector_that_fails(case: dict[str, Any], tmp_path: Path) -> None:
    result = run_case(case, tmp_path, environment=DEBUG)
    shown = frames(result)
    assert "Error, most recent call last:\n  decoder.__main__:" in shown


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("jwe-wrong-key", "decoder.keywrap.jwe"),
        ("pkcs7-wrong-cert", "decoder.keywrap.pkcs7"),
        ("pgp-passphrase-wrong", "decoder.keywrap.pgp"),
    ],
)
def test_the_attempt_with_a_key(name: str, module: str, tmp_path: Path) -> None:
    (case,) = [case for case in CASES if case["name"] == name]
    assert f"  {module}" in frames(run_case(case, tmp_path, environment=DEBUG))


def test_a_token(tmp_path: Path) -> None:
    text = f"pkcs11:\n  uri: pkcs11:token=t;object=o?module-path={tmp_path}/module.so&pin-value={SECRET}\n"
    layer = encrypted(PLAINTEXT, {"pkcs11": [wrapped_json(recipient(bytes(256)))]})
    result = run_layer(layer, parameters={"pkcs11-yamls": [text.encode()]}, environment=DEBUG)
    assert "  decoder.keywrap.pkcs11" in frames(result)
    assert SECRET not in result.errors


@pytest.mark.parametrize(
    ("entry", "module"),
    [
        ({"cmd": {"path": "/bin/false", "args": [SECRET]}}, "decoder.provider.client.command"),
        ({"grpc": "127.0.0.1:1", "timeout": 2}, "decoder.provider.client.grpc"),
        ({"native": "local", "key": "/absent"}, "decoder.provider.services.local"),
    ],
    ids=["cmd", "grpc", "native"],
)
def test_a_keyprovider(entry: dict[str, object], module: str, tmp_path: Path) -> None:
    config = configuration(tmp_path, {"service": entry})
    layer = encrypted(PLAINTEXT, {"provider.service": [json.dumps({"key_url": SECRET}).encode()]})
    result = run_layer(layer, "--keyprovider-config", config, environment=DEBUG)
    shown = frames(result)
    assert f"  {module}" in shown
    assert SECRET not in shown
