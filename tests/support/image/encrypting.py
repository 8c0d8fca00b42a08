"""Read what `image encrypt` has written, for its tests."""

from __future__ import annotations

import json
import os
from pathlib import Path


def provider_config(directory: Path, **members: object) -> dict[str, str]:
    """Configure the keyprovider `files` of our own, which has two key files, and return the environment for it."""
    for name in ("one", "two"):
        (directory / f"{name}.key").write_bytes(os.urandom(32))
        (directory / f"{name}.key").chmod(0o600)
    files = {"native": "local", "keys": str(directory)}
    (directory / "providers.json").write_text(json.dumps({"key-providers": {"files": files}, **members}))
    return {"OCICRYPT_KEYPROVIDER_CONFIG": str(directory / "providers.json")}
