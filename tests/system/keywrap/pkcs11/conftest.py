"""A token store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from decoder.keywrap.pkcs11 import token as pkcs11_token
from tests.support.keys.pkcs11_tokens import TokenStore, softhsm
from tests.support.keywrap.pkcs11_parts import recipient, wrapped_json, write_config

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    """Two tokens; `layers` holds an RSA 2048 and a 3072 key, `other` a 2048 one."""
    store = TokenStore(tmp_path_factory.mktemp("softhsm"))
    store.add_token("layers")
    store.add_token("other")
    store.add_key("layers", "small", "01", 2048)
    store.add_key("layers", "large", "02", 3072)
    store.add_key("other", "elsewhere", "03", 2048)
    return store


@pytest.fixture(autouse=True)
def _fresh_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each test is a run of its own, on a node that allows SoftHSM's module."""
    monkeypatch.delenv("OCICRYPT_OAEP_HASHALG", raising=False)
    monkeypatch.setenv("OCICRYPT_CONFIG", str(write_config(tmp_path / "node.conf", softhsm())))
    monkeypatch.setattr(pkcs11_token, "_wrong_pins", set())


@pytest.fixture(scope="module")
def small_sha1(store: TokenStore) -> bytes:
    return wrapped_json(recipient(store.encrypt("small", b"options", "sha1"), "sha1"))
