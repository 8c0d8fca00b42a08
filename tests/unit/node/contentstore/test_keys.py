"""Whose key opens a layer that the content store has."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from decoder import keywrap, limits
from decoder.errors import NoKeyError, WrappedKeyError
from decoder.keys.keyring import DecryptConfig, Keyring
from decoder.layer.annotations import KEYS_PREFIX
from tests.support.keywrap.layers import Layer, encrypted, pem, public_pem, rsa_key
from tests.support.node.store_parts import PLAINTEXT, WINDOW, Store, decode, descriptor_of, fails, wrapped_for

if TYPE_CHECKING:
    from pathlib import Path

# Whose key opens it.


def keyless(layer: Layer, digest: str) -> dict[str, Any]:
    """Make a descriptor that names a layer without the wrapped key."""
    descriptor = descriptor_of(layer, digest)
    annotations = {name: text for name, text in descriptor["annotations"].items() if not name.startswith(KEYS_PREFIX)}
    return {**descriptor, "annotations": annotations}


def test_a_manifest_without_a_wrapped_key_is_named(store: Store, keys: Path) -> None:
    """An image that names another one's layer by its digest alone is decrypted: the operator learns of it."""
    layer = encrypted(PLAINTEXT)
    digest = store.add(layer.ciphertext)
    store.add_manifest(descriptor_of(layer, digest))
    other = store.add_manifest(keyless(layer, digest), author="somebody else")
    result = decode(store, layer, keys)
    assert (result.status, result.plaintext) == (0, PLAINTEXT)
    warning = f"the manifest {other} names the encrypted layer {digest} without a wrapped key"
    assert result.errors == f"ctd-decoder: warning: {warning}\n"


@pytest.mark.parametrize("is_option", [True, False])
def test_a_strict_search_fails_then(is_option: bool, store: Store, keys: Path, tmp_path: Path) -> None:
    layer = encrypted(PLAINTEXT)
    digest = store.add(layer.ciphertext)
    store.add_manifest(descriptor_of(layer, digest))
    (tmp_path / "conf").write_text('{"key-providers": {}, "strict-lookup": true}')
    how = ("--strict-lookup",) if is_option else ("--keyprovider-config", str(tmp_path / "conf"))
    assert decode(store, layer, keys, *how) == (0, PLAINTEXT, "")
    other = store.add_manifest(keyless(layer, digest), author="somebody else")
    store.add_manifest(descriptor_of(layer, digest), author="newer")
    result = decode(store, layer, keys, *how)
    fails(result, 3, f"--strict-lookup: the manifest {other} names the encrypted layer {digest} without a wrapped key")
    assert result.plaintext == b""


@pytest.mark.parametrize("text", ['{"strict-lookup": 1}', '{"strict-lookup": true', '["strict-lookup"]'])
def test_a_setting_that_cannot_be_read_fails(text: str, store: Store, keys: Path, tmp_path: Path) -> None:
    layer = encrypted(PLAINTEXT)
    store.add_image(layer)
    (tmp_path / "conf").write_text(text)
    fails(decode(store, layer, keys, "--keyprovider-config", str(tmp_path / "conf")), 3, "strict-lookup")


def test_no_manifest_has_a_wrapped_key(store: Store, keys: Path) -> None:
    layer = encrypted(PLAINTEXT)
    store.add_manifest(keyless(layer, store.add(layer.ciphertext)))
    fails(decode(store, layer, keys), 4, "its descriptor holds no wrapped key")


def test_a_denied_descriptor_does_not_deny_others(store: Store, keys: Path, tmp_path: Path) -> None:
    layer = encrypted(PLAINTEXT)
    digest = store.add(layer.ciphertext)
    store.add_manifest(descriptor_of(layer, digest))
    (tmp_path / "conf").write_text('{"deny": ["provider.*"]}')
    denied = descriptor_of(layer, digest)
    denied["annotations"] = {**denied["annotations"], f"{KEYS_PREFIX}provider.x": "e30="}
    store.add_manifest(denied)
    options = ("--keyprovider-config", str(tmp_path / "conf"))
    assert decode(store, layer, keys, *options) == (0, PLAINTEXT, "")
    alone = Store(tmp_path / "alone")
    alone.add(layer.ciphertext)
    alone.add_manifest(denied)
    fails(decode(alone, layer, keys, *options), 4, "is denied by the rule 'provider.*'")


def test_attempts_are_bounded_over_all_descriptors(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many manifests with many wrapped keys do not multiply the time that one layer may take."""
    layer = wrapped_for(*[public_pem(rsa_key())] * 4)
    digest = store.add(layer.ciphertext)
    for number in range(8):
        descriptor = descriptor_of(layer, digest)
        store.add_manifest({**descriptor, "annotations": {**descriptor["annotations"], "n": str(number)}})
    monkeypatch.setattr(limits, "UNWRAP_ATTEMPTS", 5)  # each descriptor takes one
    keyring = Keyring()
    keyring.add("other", pem(rsa_key(3072)))
    budget = keywrap.new_budget()
    attempts = 0
    for found in store.search(layer.ciphertext[:WINDOW]):
        with pytest.raises(NoKeyError) as failure:
            keywrap.unwrap_any(found.annotations, DecryptConfig(keyring, budget=budget))
        attempts += sum(attempt.key is not None for attempt in failure.value.attempts)
    assert attempts == 5
    assert "given up: no key opened the layer in 5 attempts" in str(failure.value)


def test_the_slowest_keyprovider_gets_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "UNWRAP_SECONDS", 0.0)
    monkeypatch.setattr(limits, "UNWRAP_EXTRA_SECONDS", 0.0)
    config = tmp_path / "keyproviders.json"
    for entries, seconds in (({"a": {"grpc": "x:1", "timeout": 600}, "b": {"grpc": "y:1"}}, 600), ({}, 0)):
        config.write_text(json.dumps({"key-providers": entries}))
        budget = keywrap.new_budget(str(config))
        if seconds:
            budget.check()
            continue
        with pytest.raises(WrappedKeyError, match="no key opened the layer within 0 seconds"):
            budget.check()
    for file in ("", str(tmp_path / "missing")):
        with pytest.raises(WrappedKeyError):
            keywrap.new_budget(file).check()
