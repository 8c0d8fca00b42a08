"""The provider pkcs11: SoftHSM tokens behind configured key files."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from decoder import limits
from decoder.errors import UsageError
from decoder.formats import wire
from decoder.keywrap.pkcs11 import token as pkcs11_token
from decoder.provider import create
from decoder.provider.errors import KeyRefusedError, ProviderError
from tests.support.keys.pkcs11_tokens import PIN, TokenStore, softhsm
from tests.support.keywrap.layers import private_options

if TYPE_CHECKING:
    from decoder.provider.audit import Provider


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    """A token with an RSA 2048 and a 3072 key, and a directory `keys` with what points to them."""
    store = TokenStore(tmp_path_factory.mktemp("softhsm"))
    store.add_token("layers")
    store.add_key("layers", "small", "01", 2048)
    store.add_key("layers", "large", "02", 3072)
    keys = store.directory / "keys"
    keys.mkdir()
    (keys / "small.yaml").write_bytes(store.yaml("token=layers;object=small"))
    (keys / "large.yaml").write_bytes(store.yaml("token=layers;object=large"))
    (keys / "large.pub.pem").write_bytes(store.public("large"))
    (keys / ".hidden").write_bytes(b"not looked at")
    return store


@pytest.fixture(autouse=True)
def config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A configuration that allows SoftHSM's module; the node's own allows nothing."""
    path = tmp_path / "modules.conf"
    path.write_text(json.dumps({"pkcs11": {"allowed-module-paths": [softhsm()]}}))
    (tmp_path / "node.conf").write_text("pkcs11: {}\n")
    monkeypatch.setenv("OCICRYPT_CONFIG", str(tmp_path / "node.conf"))
    monkeypatch.delenv("OCICRYPT_OAEP_HASHALG", raising=False)
    monkeypatch.setattr(pkcs11_token, "_wrong_pins", set())
    return str(path)


def provider(store: TokenStore, config: str, key: str = "", **options: Any) -> Provider:
    given = {name.replace("_", "-"): value for name, value in options.items()}
    return create("pkcs11", {"key": str(store.directory / "keys" / key), "config": config, **given})


def failure(work: Any, *arguments: Any) -> str:
    with pytest.raises(ProviderError) as caught:
        work(*arguments)
    assert PIN not in str(caught.value) + repr(caught.value)
    assert len(str(caught.value)) < 2 * limits.PROVIDER_ERROR_BYTES
    return str(caught.value)


@pytest.mark.parametrize(("key", "hash_name"), [("small", "sha1"), ("large", "sha1")])
def test_wraps_through_the_token_and_unwraps(store: TokenStore, config: str, key: str, hash_name: str) -> None:
    keys = provider(store, config, f"{key}.yaml")
    annotation = keys.wrap(private_options(), [])
    (recipient,) = json.loads(annotation)["recipients"]
    assert recipient["hash"] == hash_name, "SoftHSM itself cannot do SHA-256"
    assert store.decrypt(key, wire.decode_base64(recipient["blob"]), hash_name) == private_options()
    for parameters in ([], ["Enabled"], [f"{key}.yaml"]):
        assert keys.unwrap(annotation, parameters) == private_options()


def test_a_public_key_wraps_what_the_token_opens(store: TokenStore, config: str) -> None:
    annotation = provider(store, config, "large.pub.pem").wrap(private_options(), [])
    assert json.loads(annotation)["recipients"][0]["hash"] == "sha256"
    assert provider(store, config, "large.yaml").unwrap(annotation, []) == private_options()
    public = provider(store, config, "large.pub.pem")
    assert "there is no key file that may be used" in failure(public.unwrap, annotation, [])


def test_a_directory_of_keys(store: TokenStore, config: str) -> None:
    keys = provider(store, config)
    assert failure(keys.wrap, b"options", []) == (
        "no key was named, and 3 may be used: name one in the recipient, provider:NAME:FILE, "
        "with one of the files 'large.pub.pem', 'large.yaml', 'small.yaml'"
    )
    annotation = keys.wrap(b"options", ["small.yaml", "large.pub.pem", "small.yaml"])
    assert len(json.loads(annotation)["recipients"]) == 2
    assert keys.unwrap(annotation, []) == b"options"
    only = keys.wrap(b"options", ["small.yaml"])
    assert keys.unwrap(only, []) == keys.unwrap(only, ["small.yaml"]) == b"options"
    text = failure(keys.unwrap, only, ["large.yaml"])
    assert text == "no key opens it: 'large.yaml': no recipient has a key of this size"


def test_callers_name_configured_keys_alone(store: TokenStore, config: str) -> None:
    keys = provider(store, config, "small.yaml")
    annotation = keys.wrap(b"options", [])
    for name in (
        "large.yaml",
        "../keys/small.yaml",
        str(store.directory / "keys/small.yaml"),
        ".hidden",
        "/etc/passwd",
    ):
        for work, data in ((keys.wrap, b"options"), (keys.unwrap, annotation)):
            with pytest.raises(KeyRefusedError, match="is configured"):
                work(data, [name])


def test_allow_key_narrows_a_directory(store: TokenStore, config: str) -> None:
    keys = provider(store, config, allow_key=["small*"])
    annotation = keys.wrap(b"options", [])
    assert keys.unwrap(annotation, []) == b"options"
    assert "does not match any allow-key" in failure(keys.wrap, b"options", ["large.yaml"])
    other = provider(store, config, "large.yaml").wrap(b"options", [])
    assert "no recipient has a key of this size" in failure(keys.unwrap, other, [])
    assert "there is no key file" in failure(provider(store, config, allow_key=["x"]).unwrap, annotation, [])


def test_only_allowed_modules_are_loaded(store: TokenStore, config: str, tmp_path: Path) -> None:
    annotation = provider(store, config, "small.yaml").wrap(b"options", [])
    (tmp_path / "other.conf").write_text(json.dumps({"pkcs11": {"allowed-module-paths": ["/nothing/"]}}))
    other = provider(store, str(tmp_path / "other.conf"), "small.yaml")
    for work, data in ((other.wrap, b"options"), (other.unwrap, annotation)):
        assert "is not among the allowed-module-paths" in failure(work, data, [])


def test_each_of_two_entries_keeps_to_its_own_modules(store: TokenStore, config: str, tmp_path: Path) -> None:
    """The configuration of an entry reaches neither another entry nor the node's own keys through the environment."""
    environment = dict(os.environ)
    allowed = provider(store, config, "small.yaml")
    (tmp_path / "other.conf").write_text(json.dumps({"pkcs11": {"allowed-module-paths": ["/nothing/"]}}))
    refused = provider(store, str(tmp_path / "other.conf"), "small.yaml")
    node = create("pkcs11", {"key": str(store.directory / "keys/small.yaml")})
    assert allowed.unwrap(allowed.wrap(b"options", []), []) == b"options"
    assert "is not among the allowed-module-paths" in failure(refused.wrap, b"options", [])
    assert "no PKCS#11 module is allowed" in failure(node.wrap, b"options", [])
    assert dict(os.environ) == environment


def test_the_node_configuration_counts_without_another(store: TokenStore) -> None:
    keys = create("pkcs11", {"key": str(store.directory / "keys/small.yaml")})
    assert "no PKCS#11 module is allowed" in failure(keys.wrap, b"options", [])


def test_damage_is_told(store: TokenStore, config: str) -> None:
    keys = provider(store, config, "small.yaml")
    blob = store.encrypt("large", b"options", "sha1")[:256]
    foreign = json.dumps({"version": 0, "recipients": [{"version": 0, "blob": wire.encode_base64(blob)}]}).encode()
    assert "does not open this wrapped key" in failure(keys.unwrap, foreign, [])
    for malformed in (b"", b"[]", b"{}", b"[" * 100_000, b'{"recipients":[{"blob":"*"}]}'):
        failure(keys.unwrap, malformed, [])
    assert "can wrap 214 bytes with sha1" in failure(keys.wrap, bytes(215), [])


def test_wrong_pin(store: TokenStore, config: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_bytes(store.yaml("token=layers;object=small", f"module-path={softhsm()}&pin-value=wrong-pin"))
    keys = create("pkcs11", {"key": str(path), "config": config})
    text = failure(keys.unwrap, keys.wrap(b"options", []), [])
    assert "PIN" in text
    assert "wrong-pin" not in text


def test_key_files_that_cannot_be_read(store: TokenStore, config: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs the option key"):
        create("pkcs11", {})
    with pytest.raises(ProviderError, match="No such file"):
        create("pkcs11", {"key": str(tmp_path / "nothing")})
    (tmp_path / "empty").mkdir()
    with pytest.raises(ProviderError, match="holds no key file"):
        create("pkcs11", {"key": str(tmp_path / "empty")})
    with pytest.raises(ProviderError, match="is not a file"):
        provider(store, str(tmp_path / "nothing"), "small.yaml")
    (tmp_path / "broken").write_bytes(b"pkcs11: [")
    assert "it is not YAML" in failure(create("pkcs11", {"key": str(tmp_path / "broken")}).wrap, b"options", [])
    gone = tmp_path / "gone.yaml"
    gone.write_bytes(store.yaml("token=layers;object=small"))
    keys = create("pkcs11", {"key": str(gone), "config": config})
    annotation = keys.wrap(b"options", [])
    gone.unlink()
    assert "No such file" in failure(keys.unwrap, annotation, [])


def test_a_module_that_hangs_is_ended(
    store: TokenStore, config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time limit holds for all key files together: the second is not tried once it has passed."""
    annotation = provider(store, config, "small.yaml").wrap(b"options", [])
    module = tmp_path / "hangs.so"
    source = "__attribute__((constructor)) static void hang(void) { for (;;) pause(); }"
    (tmp_path / "hangs.c").write_text(f"#include <unistd.h>\n{source}\n")
    store.run("gcc", "-shared", "-fPIC", "-o", module, tmp_path / "hangs.c")
    (tmp_path / "hanging.conf").write_text(json.dumps({"pkcs11": {"allowed-module-paths": [str(module)]}}))
    (tmp_path / "keys").mkdir()
    for name in ("a.yaml", "b.yaml"):
        uri = "token=layers;object=small"
        (tmp_path / "keys" / name).write_bytes(store.yaml(uri, f"module-path={module}&pin-value={PIN}"))
    keys = create("pkcs11", {"key": str(tmp_path / "keys"), "config": str(tmp_path / "hanging.conf")})
    monkeypatch.setattr(limits, "PKCS11_SECONDS", 1.0)
    monkeypatch.setattr(limits, "CLOUD_KMS_SECONDS", 0.5)
    text = failure(keys.unwrap, annotation, [])
    assert "given up" in text
    assert "'a.yaml'" in text
    assert "'b.yaml'" not in text
    assert stat.S_ISREG(module.stat().st_mode)
