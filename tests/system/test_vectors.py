"""Every vector that the reference library made, through the installed program and the reference itself."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from decoder import limits
from tests.support.processes import REFERENCE, ROOT, Result, payload_bytes, run_decoder

VECTORS = ROOT / "tests/vectors"
CASES: list[dict[str, Any]] = json.loads((VECTORS / "cases.json").read_text())
NAMES = [case["name"] for case in CASES]


def ciphertext_of(case: dict[str, Any]) -> bytes:
    data: bytes = (VECTORS / "blobs" / case["ciphertext"]).read_bytes()
    match case.get("mutate"):
        case ["flip", int(at)]:
            return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        case ["cut", int(length)]:
            return data[:length]
        case ["append", str(tail)]:
            return data + bytes.fromhex(tail)
        case _:
            return data


def key(name: str) -> bytes:
    return (VECTORS / "keys" / name).read_bytes()


def run_case(case: dict[str, Any], directory: Path, **how: Any) -> Result:
    parameters = {
        "privkeys": [key(name) for name in case["privkeys"]],
        "privkeys-passwords": [password.encode() for password in case["passwords"]],
        "x509s": [key(name) for name in case["x509s"]],
        "gpg-privatekeys": [key(name) for name in case["gpg_privatekeys"]],
        "gpg-privatekeys-passwords": [password.encode() for password in case["gpg_passwords"]],
    }
    arguments = [] if case["keydir"] is None else ["--decryption-keys-path", str(directory)]
    for name in case["keydir"] or []:
        (directory / name).write_bytes(key(name))
    payload = payload_bytes(case["descriptor"], {name: items for name, items in parameters.items() if items})
    return run_decoder(payload, ciphertext_of(case), *arguments, **how)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_vector(case: dict[str, Any], tmp_path: Path) -> None:
    result = run_case(case, tmp_path)
    if case["expect"] == "ok":
        assert (result.status, result.errors) == (0, "")
        assert len(result.plaintext) == case["plain_size"]
        assert hashlib.sha256(result.plaintext).hexdigest() == case["plain_sha256"]
    else:
        assert result.status in (4, 5)
        assert result.errors.startswith("ctd-decoder: error: ")
        assert "Traceback" not in result.errors
        assert len(result.plaintext) <= max(0, case["plain_size"] - limits.TAIL_BYTES)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_reference_agrees(case: dict[str, Any], tmp_path: Path) -> None:
    """The expectations are those of the reference, but for the cases that are marked to go beyond it."""
    result = run_case(case, tmp_path, program=REFERENCE)
    succeeds = case["expect"] == "ok" and not case.get("beyond")
    assert (result.status == 0) is succeeds
    if succeeds:
        assert hashlib.sha256(result.plaintext).hexdigest() == case["plain_sha256"]
