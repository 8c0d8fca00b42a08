"""The vectors that the reference library made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.program.processes import ROOT, Result, payload_bytes, run_decoder

VECTORS = ROOT / "tests/vectors"


CASES: list[dict[str, Any]] = json.loads((VECTORS / "cases.json").read_text())


NAMES = [case["name"] for case in CASES]
COCO_PACKETS: dict[str, Any] = json.loads((VECTORS / "coco/packets.json").read_bytes())


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
