"""Owners and publishers whose keys are on a token (SoftHSM), or under a keyprovider."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from decoder.grants import artifacts, keys
from decoder.grants.errors import StatementError
from decoder.grants.keys import read_public_key
from decoder.grants.ownkeys import open_own_key
from tests.support.image import layouts
from tests.support.image.command import Ended, done, image, oci
from tests.support.image.encrypting import provider_config
from tests.support.image.grants import ACCESS, new_key, write_private
from tests.support.image.images import Layout
from tests.support.keys.pkcs11_tokens import TokenStore, softhsm
from tests.support.keywrap.layers import public_pem
from tests.support.program.processes import PROGRAM
from tests.support.registry.memory_registry import MemoryRegistry


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    """A token with the keys of an owner and a publisher."""
    store = TokenStore(tmp_path_factory.mktemp("softhsm"))
    store.add_token("grants")
    for number, name in enumerate(("owner", "publisher"), 1):
        store.add_key("grants", name, f"0{number}", 2048)
        (store.directory / f"{name}.yaml").write_bytes(store.yaml(f"token=grants;object={name}"))
    return store


@pytest.fixture
def registry() -> Iterator[MemoryRegistry]:
    with MemoryRegistry() as registry:
        yield registry


@pytest.fixture
def small(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path / "small")
    return layouts.publish(layout, layouts.add_image(layout, "amd64", [layouts.tar("base"), layouts.tar("top")]))


def grants(*arguments: object, **environment: str) -> Ended:
    command = [PROGRAM, "grants", *map(str, arguments)]
    environment = {**os.environ, **environment}
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    return Ended(result.returncode, result.stdout, result.stderr)


class Node:
    """A node that asks, and that is approved by its public key."""

    def __init__(self, directory: Path, owner: Path, image_name: str) -> None:
        self._image = image_name
        key = write_private(directory / "node.key", new_key())
        config = {"native": "grants", "key": str(key), "owner": [f"*={owner}"]}
        (directory / "node.json").write_text(json.dumps({"key-providers": {"grants": config}}))
        self._options = ["--keyprovider-config", str(directory / "node.json"), "--key", "provider:grants", "--verify"]

    def check(self) -> Ended:
        return image("check", *self._options, self._image)


def identifier(registry: MemoryRegistry, name: str) -> str:
    with artifacts.opened(f"{registry.host}/{name}", ACCESS) as repository:
        (tag,) = repository.tags("sealed")
    return artifacts.parse_tag(tag)[1]


def test_keys_on_a_token(store: TokenStore, registry: MemoryRegistry, small: Layout, tmp_path: Path) -> None:
    (tmp_path / "modules.conf").write_text(json.dumps({"pkcs11": {"allowed-module-paths": [softhsm()]}}))
    environment = {"OCICRYPT_CONFIG": str(tmp_path / "modules.conf")}
    repository, directory = f"{registry.host}/team/app", store.directory
    options: list[str | Path] = [
        "--recipient",
        f"provider:grants:{repository}",
        "--grants-owner",
        directory / "owner.pub.pem",
    ]
    done(
        "encrypt",
        oci(small),
        f"docker://{repository}:1",
        *options,
        "--sign-key",
        directory / "publisher.yaml",
        **environment,
    )
    node = Node(tmp_path, directory / "owner.pub.pem", f"docker://{repository}:1")
    assert node.check().status == 6
    owner = ["--key", directory / "owner.yaml", repository, identifier(registry, "team/app")]
    refused = grants("approve", *owner)
    assert (refused.status, "may not be loaded" in refused.errors or "allow" in refused.errors) == (2, True)
    approved = grants("approve", "--publisher", directory / "publisher.pub.pem", *owner, **environment)
    assert approved.status == 0, approved.errors
    assert node.check().status == 0
    assert "granted until" in grants("list", *owner, **environment).output
    wrong = grants("approve", "--key", directory / "publisher.yaml", *owner[2:], **environment)
    assert (wrong.status, "not encrypted to this key" in wrong.errors) == (5, True)
    assert "revoked" in grants("revoke", *owner, **environment).output
    assert node.check().status == 6


def test_a_key_under_a_keyprovider(registry: MemoryRegistry, small: Layout, tmp_path: Path) -> None:
    environment = provider_config(tmp_path)
    owner = new_key()
    write_private(tmp_path / "owner.key", owner)
    (tmp_path / "owner.pub").write_bytes(public_pem(owner._private))
    wrapped = tmp_path / "owner.wrapped"
    wrapping = ["wrap-key", "--key", tmp_path / "owner.key", "--provider", "files:one.key", wrapped]
    done_wrapping = grants(*wrapping, **environment)
    assert done_wrapping.status == 0, done_wrapping.errors
    assert b"PRIVATE" not in wrapped.read_bytes()
    assert grants(*wrapping, **environment).status == 2  # nothing is overwritten
    (tmp_path / "owner.key").unlink()
    repository = f"{registry.host}/team/app"
    options: list[str | Path] = [
        "--recipient",
        f"provider:grants:{repository}",
        "--grants-owner",
        tmp_path / "owner.pub",
    ]
    key = f"provider:files:{wrapped}"
    done("encrypt", oci(small), f"docker://{repository}:1", *options, "--sign-key", key, **environment)
    node = Node(tmp_path, tmp_path / "owner.pub", f"docker://{repository}:1")
    assert node.check().status == 6
    approve = ["approve", "--key", key, repository, identifier(registry, "team/app")]
    approved = grants(*approve, **environment)
    assert approved.status == 0, approved.errors
    assert node.check().status == 0
    kept = (tmp_path / "one.key").read_bytes()
    (tmp_path / "one.key").write_bytes(os.urandom(32))  # the keyprovider has lost its key
    assert grants(*approve, **environment).status == 6
    assert (
        grants("wrap-key", "--key", tmp_path / "node.key", "--provider", "files", tmp_path / "x", **environment).status
        == 6
    )
    assert (
        grants("wrap-key", "--key", tmp_path / "node.key", "--provider", "none", tmp_path / "x", **environment).status
        == 2
    )
    (tmp_path / "one.key").write_bytes(kept)
    whole = wrapped.read_bytes()
    for text in (b"{}", b"x", whole.replace(b'"data":"', b'"data":"AAAA')):
        wrapped.write_bytes(text)
        failed = grants(*approve, **environment)
        assert (failed.status, "internal" in failed.errors) == (2, False)


def test_fingerprints_are_those_of_the_standard(store: TokenStore) -> None:
    """RFC 7638 over what openssl made, computed by hand."""
    import hashlib

    from cryptography.hazmat.primitives.asymmetric import rsa

    from decoder.formats.wire import encode_base64url

    key = read_public_key(str(store.directory / "owner.pub.pem")).key
    assert isinstance(key, rsa.RSAPublicKey)
    numbers = key.public_numbers()
    e, n = (encode_base64url(number.to_bytes((number.bit_length() + 7) // 8)) for number in (numbers.e, numbers.n))
    text = f'{{"e":"{e}","kty":"RSA","n":"{n}"}}'
    assert keys.fingerprint(key) == hashlib.sha256(text.encode()).hexdigest()


def test_what_a_key_on_a_token_cannot_do(store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "modules.conf").write_text(json.dumps({"pkcs11": {"allowed-module-paths": [softhsm()]}}))
    monkeypatch.setenv("OCICRYPT_CONFIG", str(tmp_path / "modules.conf"))
    key = store.directory / "owner.yaml"
    ended = grants("wrap-key", "--key", key, "--provider", "files", tmp_path / "wrapped")
    assert (ended.status, (tmp_path / "wrapped").exists()) == (2, False)
    assert "a key on a token cannot be read, so it cannot be wrapped; use it directly" in ended.errors
    with pytest.raises(StatementError, match="JWE"):
        open_own_key("--key", str(key)).open(b"not a JWE")
