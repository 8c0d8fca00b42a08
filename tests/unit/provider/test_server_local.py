"""The provider `local`: its files, its annotations, and which keys an image may use."""

from __future__ import annotations

import json
import os
from base64 import b64decode, b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from decoder.errors import UsageError
from decoder.provider import create
from decoder.provider.errors import ProviderError
from tests.support.provider.serving import SAMPLE_KEY, write_key

if TYPE_CHECKING:
    from decoder.provider.audit import Provider

OPTIONS = b'{"symkey":"c2VjcmV0","digest":"sha256:0","cipheroptions":{}}'


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return write_key(tmp_path / "image.key")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    directory = tmp_path / "keys"
    directory.mkdir()
    for name in ("blue", "green", "prod-1"):
        write_key(directory / name, name.ljust(32).encode())
    return directory


def local(*allowed: str, **options: Path) -> Provider:
    return create("local", {**{name: str(path) for name, path in options.items()}, "allow-key": list(allowed)})


def annotation(**changes: Any) -> bytes:
    nonce = b"unique nonce"
    wrapped = nonce + AESGCM(SAMPLE_KEY).encrypt(nonce, OPTIONS, None)
    members = {"key_url": "local://image.key", "wrapped_key": b64encode(wrapped).decode(), "wrap_type": "AES"}
    return json.dumps({**members, **changes}).encode()


def test_writes_the_published_form(key: Path) -> None:
    wrapped = local(key=key).wrap(OPTIONS, [])
    members = json.loads(wrapped)
    assert list(members) == ["key_url", "wrapped_key", "wrap_type"]
    assert (members["key_url"], members["wrap_type"]) == ("local://image.key", "AES")
    data = b64decode(members["wrapped_key"], validate=True)
    assert AESGCM(SAMPLE_KEY).decrypt(data[:12], data[12:], None) == OPTIONS


def test_never_uses_a_nonce_twice(key: Path) -> None:
    provider = local(key=key)
    assert len({json.loads(provider.wrap(OPTIONS, []))["wrapped_key"][:16] for _ in range(100)}) == 100


@pytest.mark.parametrize("url", ["local://image.key", "image.key", "https://key-provider/key-uuid"])
def test_reads_its_own_and_the_samples_annotations(key: Path, url: str) -> None:
    assert local(key=key).unwrap(annotation(key_url=url), []) == OPTIONS


@pytest.mark.parametrize("parameter", ["green", "local://green"])
def test_keys_of_a_directory_by_name(keys: Path, parameter: str) -> None:
    provider = local(keys=keys)
    wrapped = provider.wrap(OPTIONS, [parameter])
    assert json.loads(wrapped)["key_url"] == "local://green"
    assert [provider.unwrap(wrapped, parameters) for parameters in ([], ["Enabled"], [parameter])] == [OPTIONS] * 3


def test_a_directory_has_no_key_of_its_own(keys: Path) -> None:
    for parameters in ([], ["Enabled"], ["blue", "green"]):
        with pytest.raises(ProviderError, match=r"no key was named.* such as provider:NAME:local://FILE|2 keys"):
            local(keys=keys).wrap(OPTIONS, parameters)
    with pytest.raises(ProviderError, match="not the name of a local key"):
        local(keys=keys).unwrap(annotation(key_url="https://key-provider/key-uuid"), [])


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "../image.key", "a/b", "/etc/passwd", "a\0b", "a\n", "blau/", "ä", "a b", "local://x"],
)
def test_names_that_are_no_part_of_a_path(keys: Path, name: str) -> None:
    with pytest.raises(ProviderError, match="not the name of a local key"):
        local(keys=keys).unwrap(annotation(key_url=f"local://{name}"), [])


def test_links_stay_inside_the_directory(keys: Path, key: Path) -> None:
    data = keys / "..data"
    data.mkdir()
    write_key(data / "linked")
    (keys / "inside").symlink_to("..data/linked")
    (keys / "outside").symlink_to(key)
    provider = local(keys=keys)
    assert provider.unwrap(provider.wrap(OPTIONS, ["inside"]), []) == OPTIONS
    with pytest.raises(ProviderError, match="leads out of the directory"):
        provider.wrap(OPTIONS, ["outside"])


def test_the_directory_itself_and_the_key_file_may_be_links(keys: Path, key: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(keys)
    assert local(keys=tmp_path / "link").wrap(OPTIONS, ["blue"])
    (keys / "elsewhere").symlink_to(key)
    assert local(key=keys / "elsewhere").wrap(OPTIONS, [])


def test_the_configured_key_allows_only_itself(key: Path) -> None:
    write_key(key.parent / "other")
    for url in ("local://other", "local://image"):
        with pytest.raises(ProviderError, match="not the configured one"):
            local(key=key).unwrap(annotation(key_url=url), [])
    with pytest.raises(ProviderError, match="not the configured one"):
        local(key=key).wrap(OPTIONS, ["other"])


def test_patterns_allow_keys(keys: Path) -> None:
    wrapped = {name: local(keys=keys).wrap(OPTIONS, [name]) for name in ("blue", "prod-1")}
    provider = local("local://prod-*", keys=keys)
    assert provider.unwrap(wrapped["prod-1"], []) == OPTIONS
    with pytest.raises(ProviderError, match="does not match any allow-key"):
        provider.unwrap(wrapped["blue"], [])


def test_the_callers_parameters_restrict_further(keys: Path) -> None:
    wrapped = local(keys=keys).wrap(OPTIONS, ["blue"])
    assert local(keys=keys).unwrap(wrapped, ["green", "blue"]) == OPTIONS
    with pytest.raises(ProviderError, match="not one that was asked for"):
        local(keys=keys).unwrap(wrapped, ["green"])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"wrap_type": "RSA"}, "wrap_type"),
        ({"wrapped_key": b64encode(b"x" * 11).decode()}, "not wrapped with the key"),
        ({"wrapped_key": b64encode(b"x" * 12).decode()}, "not wrapped with the key"),
        ({"wrapped_key": b64encode(b"x" * 60).decode()}, "not wrapped with the key"),
        ({"wrapped_key": "%"}, "malformed"),
        ({"wrapped_key": ""}, "no wrapped_key"),
        ({"wrapped_key": 5}, "malformed"),
        ({"key_url": ["local://image.key"]}, "malformed"),
        ({"key_url": ""}, "no key_url"),
        ({"key_url": "gcpkms://projects/p"}, "not the name of a local key"),
    ],
)
def test_annotations_that_are_not_its_own(key: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ProviderError, match=reason):
        local(key=key).unwrap(annotation(**changes), [])


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_annotations_that_are_no_json_object(key: Path, data: bytes) -> None:
    with pytest.raises(ProviderError, match="malformed"):
        local(key=key).unwrap(data, [])


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o602])
def test_files_that_others_may_read_are_refused(key: Path, mode: int) -> None:
    key.chmod(mode)
    with pytest.raises(ProviderError, match="chmod 600"):
        local(key=key)


@pytest.mark.parametrize("length", [0, 1, 31, 33, 64])
def test_files_that_are_no_key(tmp_path: Path, length: int) -> None:
    with pytest.raises(ProviderError, match=f"has {length} bytes, not 32"):
        local(key=write_key(tmp_path / "short", b"x" * length))


def test_what_is_no_file(tmp_path: Path, keys: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path in (tmp_path / "fifo", tmp_path / "missing", keys):
        with pytest.raises(ProviderError, match="cannot be used"):
            local(key=path)
    with pytest.raises(ProviderError, match="no directory"):
        local(keys=tmp_path / "missing")


def test_a_key_that_comes_and_goes(keys: Path) -> None:
    provider = local(keys=keys)
    with pytest.raises(ProviderError, match="local://new cannot be used"):
        provider.wrap(OPTIONS, ["new"])
    write_key(keys / "new")
    assert provider.unwrap(provider.wrap(OPTIONS, ["new"]), []) == OPTIONS


def test_needs_a_key_or_a_directory(key: Path, keys: Path) -> None:
    for options in ({}, {"key": key, "keys": keys}):
        with pytest.raises(UsageError, match="one of the options"):
            local(**options)


def test_a_directory_that_is_removed(keys: Path) -> None:
    provider = local(keys=keys)
    works = provider.check(1)
    assert works is not None
    assert works == (["3 keys of 32 bytes can be read"], [])
    keys.rename(keys.with_name("other"))
    assert provider.check(1) == ([], [f"the directory '{keys}': No such file or directory"])


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"key": 7}, "the option key of the provider local must be a string: the file with the key"),
        ({"key": ["/a"]}, "the option key of the provider local must be a string"),
        ({"allow-key": ["a", 7]}, "the option allow-key of the provider local must be a string"),
    ],
)
def test_options_of_another_type(options: dict[str, object], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        create("local", options)
