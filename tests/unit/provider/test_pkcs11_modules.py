"""Each native pkcs11 provider loads what its own configuration allows, whatever else is configured."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from decoder import provider
from decoder.provider.errors import ProviderError
from tests.support.keys.pkcs11_tokens import wrapped_to_nobody

if TYPE_CHECKING:
    from decoder.provider.audit import Provider


def config(directory: Path, name: str, allowed: Path) -> str:
    """Write a configuration that allows the modules in one directory."""
    path = directory / name
    path.write_text(f"pkcs11:\n  allowed-module-paths: ['{allowed}/']\n")
    return str(path)


def failure(service: Provider) -> str:
    with pytest.raises(ProviderError) as raised:
        service.unwrap(wrapped_to_nobody(), [])
    return str(raised.value)


def test_two_providers_keep_their_own_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OCICRYPT_CONFIG", raising=False)
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "module.so").write_text("not a module")
    key = tmp_path / "key.yaml"
    key.write_text(f"pkcs11:\n  uri: 'pkcs11:token=t?module-path={modules}/module.so&pin-value=1'\n")
    strict = provider.create("pkcs11", {"key": str(key), "config": config(tmp_path, "strict.conf", tmp_path)})
    loose = provider.create("pkcs11", {"key": str(key), "config": config(tmp_path, "loose.conf", modules)})
    assert "is not among the allowed-module-paths" in failure(strict)
    assert "cannot be loaded" in failure(loose)
    assert "is not among the allowed-module-paths" in failure(strict)
    assert "OCICRYPT_CONFIG" not in os.environ
