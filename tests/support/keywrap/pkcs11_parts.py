"""Wrap and unwrap with the scheme pkcs11, for tests."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from decoder.formats import wire
from decoder.keywrap import pkcs11
from tests.support.keys.pkcs11_tokens import PIN, keys_of

SMALL, LARGE = 256, 384  # bytes of RSA 2048 and 3072


def write_config(path: Path, *allowed: str, directories: tuple[str, ...] = ()) -> Path:
    lists = {"module-directories": list(directories), "allowed-module-paths": list(allowed)}
    path.write_text(json.dumps({"pkcs11": lists}))
    return path


def wrapped_json(*recipients: dict[str, Any], **members: Any) -> bytes:
    return json.dumps({"version": 0, "recipients": list(recipients), **members}).encode()


def recipient(blob: bytes, hash_name: str | None = None, **members: Any) -> dict[str, Any]:
    hashed = {} if hash_name is None else {"hash": hash_name}
    return {"version": 0, "blob": wire.encode_base64(blob), **hashed, **members}


def unwrap(wrapped: bytes, *key_files: bytes, config: bytes | None = None) -> tuple[bytes | None, list[str]]:
    """Unwrap, and collect the reasons; the PIN is in none, and the environment is what it was."""
    reasons: list[str] = []
    environment = dict(os.environ)
    opened = pkcs11.unwrap(
        wrapped, keys_of(*key_files, config=config), lambda key, reason: reasons.append(f"{key.describe()}: {reason}")
    )
    assert PIN not in "\n".join(reasons)
    assert dict(os.environ) == environment
    return opened, reasons


def reason(wrapped: bytes, key_file: bytes, config: bytes | None = None) -> str:
    opened, reasons = unwrap(wrapped, key_file, config=config)
    assert opened is None
    assert len(reasons) == 1
    return reasons[0].removeprefix("pkcs11-yamls[0]: ")
