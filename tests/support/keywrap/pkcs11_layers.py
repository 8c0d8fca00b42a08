"""Layers for keys on PKCS#11 tokens, for tests."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def _is_child(entry: Path) -> bool:
    try:
        return (
            b"decoder.keywrap.pkcs11.child" in (entry / "cmdline").read_bytes()
            and int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == os.getpid()
        )
    except (OSError, ValueError):
        return False
