"""The keyprovider attestation-agent: key specs."""

from __future__ import annotations

import os
import stat
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from decoder.provider.errors import ProviderError
from tests.support.provider.serving import openssl

if TYPE_CHECKING:
    from pathlib import Path
from tests.support.coco.attestation_parts import KEY, KID, NOBODY_LISTENS, OPTIONS, agent, opened, wrapped

# -- key specs


@pytest.mark.parametrize("algorithm", ["", "A256GCM", "A256CTR"])
@pytest.mark.parametrize("kid", [KID, "/default/image_key/nginx", "kbs://[::1]:8080/default/image_key/nginx"])
def test_wraps_as_the_key_spec_says(keypath: Path, algorithm: str, kid: str) -> None:
    packet = wrapped(f"keyid={kid}::keypath={keypath}" + (f"::algorithm={algorithm}" if algorithm else ""))
    assert (packet["kid"], packet["wrap_type"]) == (KID, algorithm or "A256GCM")
    assert opened(packet, KEY) == OPTIONS


@pytest.mark.parametrize("algorithm", ["A256GCM", "A256CTR"])
def test_the_sample(algorithm: str) -> None:
    packet = wrapped(f"sample=true::algorithm={algorithm}")
    assert packet["kid"] == "kbs:///default/test-key/1"
    assert not any(b64decode(packet["iv"]))
    assert opened(packet, b64decode("2Zt3BbC6ehaClbOjNnJwsN2bNxv1FMqLm6fwozcR2uo=")) == OPTIONS


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("", "a new key would be lost: pass keypath=FILE"),
        ("Enabled", "a new key would be lost"),
        ("sample=false", "a new key would be lost"),
        (f"keyid={KID}", "a new key would be lost"),
        ("keyid=kbs:///a/b", "'kbs:///a/b' is not a key id of the form kbs:///repository/type/tag"),
        ("keyid=kbs:///a/../c::keypath={}", "is not a key id of the form"),
        (f"keyid={KID}::keypath=/missing/key", "the keypath '/missing/key': No such file or directory"),
        (
            f"keyid={KID}::keypath=/missing/key::create=true",
            "the keypath '/missing/key' cannot be created: No such file",
        ),
        (f"keyid={KID}::keypath=/", "the keypath '/': it is not a regular file"),
        (f"keyid={KID}::keypath=", "the key spec has keypath without a value"),
        ("keypath={}", "the key spec has keypath without keyid"),
        (f"keyid={KID}::keyid={KID}", "the key spec has keyid twice"),
        (
            f"keyid={KID}::keypath={{}}::algorithm=A128GCM",
            "the key spec's algorithm is 'A128GCM', not A256GCM or A256CTR",
        ),
        (f"keyid={KID}::keypath={{}}::algorithm=a256gcm", "the key spec's algorithm is 'a256gcm'"),
        (f"keyid={KID}::keypath={{}}::create=yes", "the key spec's create is 'yes', not true or false"),
        (f"keyid={KID}::create=true", "the key spec has create=true without keypath"),
        (f"sample=true::keyid={KID}", "the key spec has sample=true, which excludes keyid, keypath and create"),
        (
            f"keyid={KID}::key=secret",
            "the key spec has the member 'key', which is not one of keyid, keypath, algorithm, sample, create",
        ),
        (KID, "the key spec has the member 'kbs:///default/image_key/nginx', which is not one of"),
    ],
)
def test_key_specs_that_cannot_be_used(keypath: Path, spec: str, reason: str) -> None:
    with pytest.raises(ProviderError) as caught:
        wrapped(spec.format(keypath))
    assert reason in str(caught.value)


@pytest.mark.parametrize("size", [0, 31, 33, 100 * 1024 * 1024])
def test_key_files_of_other_lengths(keypath: Path, size: int) -> None:
    os.truncate(keypath, size)
    with pytest.raises(ProviderError, match=rf"has {size} bytes, not 32$|it is larger than"):
        wrapped(f"keyid={KID}::keypath={keypath}")


def test_several_key_specs(keypath: Path) -> None:
    spec = f"keyid={KID}::keypath={keypath}"
    assert agent().wrap(OPTIONS, [spec, "Enabled", spec])
    with pytest.raises(ProviderError, match=r"^2 key specs were given; pass only one$"):
        agent().wrap(OPTIONS, [spec, f"keyid=kbs:///a/b/c::keypath={keypath}"])


def test_a_key_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "new"
    spec = f"keyid={KID}::keypath={path}::create=true"
    with ThreadPoolExecutor(8) as threads:
        packets = list(threads.map(lambda _: wrapped(spec), range(32)))
    key = path.read_bytes()
    assert len(set(key)) > 8
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [opened(packet, key) for packet in packets] == [OPTIONS] * 32
    assert opened(wrapped(spec), key) == OPTIONS
    assert os.listdir(tmp_path) == ["new"]


def test_a_new_key_never_takes_anothers_place(tmp_path: Path) -> None:
    """Whatever the broker has under an id, it would be replaced without a word."""
    auth_key = tmp_path / "admin.pem"
    openssl("genpkey", "-algorithm", "ed25519", "-out", auth_key)
    auth_key.chmod(0o600)
    with pytest.raises(ProviderError, match=f"^a new key would replace .* {KID}: pass keypath=FILE"):
        wrapped(f"keyid={KID}", kbs=NOBODY_LISTENS, kbs_auth_key=str(auth_key))
    with pytest.raises(ProviderError, match=r"^the key kbs:///default/image-kek/[0-9a-f-]{36} is not registered at "):
        wrapped("Enabled", kbs=NOBODY_LISTENS, kbs_auth_key=str(auth_key))


def test_the_directory_of_keypaths(tmp_path: Path, keypath: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "inside").write_bytes(KEY)
    (keys / "link").symlink_to(keypath)
    for path in ("inside", keys / "inside"):
        assert opened(wrapped(f"keyid={KID}::keypath={path}", keys=str(keys)), KEY) == OPTIONS
    assert wrapped(f"keyid={KID}::keypath=new::create=true", keys=str(keys))
    assert (keys / "new").exists()
    for path in (keypath, "../image_key", "link", ".", "../new::create=true"):
        with pytest.raises(ProviderError, match="is not below the directory that the option keys names"):
            wrapped(f"keyid={KID}::keypath={path}", keys=str(keys))
    assert not (tmp_path / "new").exists()
