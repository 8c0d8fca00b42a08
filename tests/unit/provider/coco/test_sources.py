"""Sources of keys: their order and time limits, a broker's repository, and files of resources."""

from __future__ import annotations

import json
import os
import time
from base64 import b64encode
from pathlib import Path

import pytest

from decoder import limits
from decoder.errors import UsageError
from decoder.keywrap.kid import ResourceId
from decoder.layer.annotations import parse_private_options
from decoder.provider.errors import ProviderError
from decoder.provider.services.coco import offline, repository
from decoder.provider.services.coco.packet import build_packet, parse_packet, seal
from decoder.provider.services.coco.sources import (
    KINDS,
    KeySource,
    Source,
    TimedSource,
    UnwrapSource,
    parse_sources,
    unwrap_first,
)
from tests.support.keywrap.layers import private_options

KEY = bytes(range(32))
NGINX = ResourceId("default/image_key/nginx")
OPTIONS = private_options()
FLAT = r"default\x2Fimage_key\x2Fnginx"


def annotation(algorithm: str = "A256GCM") -> bytes:
    return build_packet(seal(NGINX, KEY, OPTIONS, algorithm))


def unwrap(*sources: Source, packet: bytes = b"") -> bytes:
    packet = packet or annotation()
    timed = [TimedSource(source, limits.COCO_SOURCE_SECONDS) for source in sources]
    return unwrap_first(timed, packet, parse_packet(packet))


def repository_of(directory: Path, content: bytes = KEY, flat: bool = False) -> str:
    path = directory / (FLAT if flat else NGINX.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(directory)


def offline_file(path: Path, resources: object) -> str:
    path.write_text(json.dumps(resources))
    return str(path)


def failure(source: Source) -> str:
    with pytest.raises(ProviderError) as caught:
        unwrap(source)
    text = str(caught.value)
    start = f"source {source.describe()}, kid {NGINX}: "
    assert text.startswith(start)
    assert KEY.hex() not in text
    assert b64encode(KEY).decode() not in text
    return text.removeprefix(start)


class Hanging:
    """A source that takes its time."""

    def describe(self) -> str:
        return "hanging:here"

    def key(self, resource: ResourceId, seconds: float) -> bytes:
        time.sleep(5)
        return KEY


class Unwrapping:
    """A source that unwraps by itself, to what it is told."""

    def __init__(self, opened: bytes) -> None:
        self._opened = opened

    def describe(self) -> str:
        return "unwrapping:here"

    def unwrap(self, packet: bytes, seconds: float) -> bytes:
        assert seconds == limits.COCO_SOURCE_SECONDS
        return self._opened


# -- all of them


def test_the_kinds(tmp_path: Path) -> None:
    where = {"cdh-rest": "http://127.0.0.1:1", "cdh-grpc": "127.0.0.1:1", "kbs": "https://broker.example"}
    for kind in (text.partition(":")[0] for text in KINDS):
        text = f"{kind}:{where.get(kind, tmp_path)}"
        ((source, seconds),) = parse_sources({"source": text})
        assert seconds == (8 if kind in ("repository", "offline") else 60)
        assert isinstance(source, UnwrapSource if kind in ("cdh-grpc", "cdh-ttrpc") else KeySource)
        assert source.describe() == text


@pytest.mark.parametrize("text", ["", "repository", "repository:", "vault:here", "Repository:/x", "packet:/x"])
def test_what_is_no_source(text: str) -> None:
    with pytest.raises(UsageError, match=r"^the source '.*' is not one of repository:DIR, offline:FILE"):
        parse_sources({"source": text or ":"})


def test_times_by_kind() -> None:
    options = {"source": "repository:/a\nkbs:https://broker.example", "source-timeout": "kbs=120\nrepository=0.5"}
    assert [seconds for _, seconds in parse_sources(options)] == [0.5, 120]
    for text in ("kbs", "kbs=", "kbs=0", "kbs=-1", "kbs=nan", "kbs=601", "kbs=soon", "vault=1", "=1"):
        with pytest.raises(UsageError, match="is not KIND=SECONDS"):
            parse_sources({"source": "repository:/a", "source-timeout": text})


def test_there_are_not_too_many() -> None:
    parse_sources({"source": "\n".join(["repository:/a"] * limits.COCO_SOURCES)})
    with pytest.raises(UsageError, match="more than 16 sources"):
        parse_sources({"source": "\n".join(["repository:/a"] * (limits.COCO_SOURCES + 1))})


def test_only_the_hub_opens_what_a_key_management_service_wrapped(tmp_path: Path) -> None:
    members = {"version": "0.1.0", "provider": "aws", "kid": "arn:aws:kms:1:key/2", "wrapped_data": "AAAA"}
    packet = json.dumps({**members, "provider_settings": {"region": "x"}, "annotations": {"a": "b"}}).encode()
    right = repository.create(repository_of(tmp_path), {})
    assert unwrap(right, Unwrapping(OPTIONS), packet=packet) == OPTIONS
    with pytest.raises(ProviderError, match="configure the source cdh-ttrpc or cdh-grpc"):
        unwrap(right, packet=packet)


def test_the_next_one_is_asked_when_one_fails(tmp_path: Path) -> None:
    empty = repository.create(str(tmp_path / "empty"), {})
    wrong = repository.create(repository_of(tmp_path / "wrong", bytes(32)), {})
    right = repository.create(repository_of(tmp_path / "right"), {})
    assert unwrap(empty, wrong, Unwrapping(b"{}"), right, Hanging()) == OPTIONS
    assert unwrap(empty, Unwrapping(OPTIONS), Hanging()) == OPTIONS


def test_each_ones_reason_is_told_in_one_line(tmp_path: Path) -> None:
    wrong = repository_of(tmp_path / "wrong", bytes(32))
    with pytest.raises(ProviderError) as caught:
        unwrap(repository.create("/missing", {}), repository.create(wrong, {}), Unwrapping(b"{}"))
    assert str(caught.value).splitlines() == [
        f"source repository:/missing, kid {NGINX}: there is no such directory; "
        f"source repository:{wrong}, kid {NGINX}: the packet was not wrapped with this key, or was changed; "
        f"source unwrapping:here, kid {NGINX}: it unwrapped the packet to malformed private options: "
        "the layer key has 0 bytes, not 32"
    ]


def test_each_has_its_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "COCO_SOURCE_SECONDS", 0.2)
    assert limits.PROVIDER_SECONDS > 3 * 8.0
    right = repository.create(repository_of(tmp_path), {})
    started = time.monotonic()
    assert unwrap(Hanging(), Hanging(), right) == OPTIONS
    assert time.monotonic() - started < 6
    assert failure(Hanging()) == "no answer within 0.2 seconds"


def test_a_key_for_ctr_is_told_by_what_it_opens(tmp_path: Path) -> None:
    wrong = repository.create(repository_of(tmp_path / "wrong", bytes(32)), {})
    right = repository.create(repository_of(tmp_path / "right"), {})
    assert unwrap(wrong, right, packet=annotation("A256CTR")) == OPTIONS


# -- repository


@pytest.mark.parametrize("flat", [False, True], ids=["path", "flat"])
def test_both_layouts_of_a_repository(tmp_path: Path, flat: bool) -> None:
    assert unwrap(repository.create(repository_of(tmp_path, flat=flat), {})) == OPTIONS
    assert unwrap(repository.create(os.path.relpath(tmp_path), {})) == OPTIONS


def test_the_paths_of_a_repository_go_first(tmp_path: Path) -> None:
    repository_of(tmp_path, bytes(32), flat=True)
    assert unwrap(repository.create(repository_of(tmp_path), {})) == OPTIONS


@pytest.mark.parametrize("size", [0, 31, 33, 4096])
def test_resources_that_are_no_key(tmp_path: Path, size: int) -> None:
    source = repository.create(repository_of(tmp_path, bytes(size)), {})
    assert failure(source) == f"it has {size} bytes, not the 32 of a key"


def test_a_large_resource_is_not_read(tmp_path: Path) -> None:
    source = repository.create(repository_of(tmp_path), {})
    os.truncate(tmp_path / NGINX.path, 100 * limits.MIB)
    assert failure(source) == f"its file '{NGINX.path}': it is larger than {limits.KEY_FILE_BYTES} bytes"


def test_what_a_repository_does_not_have(tmp_path: Path) -> None:
    source = repository.create(str(tmp_path), {})
    assert failure(source) == "it has no such resource, as a path or as a flat file"
    (tmp_path / NGINX.path).mkdir(parents=True)
    assert failure(source) == f"its file '{NGINX.path}': it is not a regular file"
    with pytest.raises(ProviderError, match=r"^it only has resources of the plugin resource$"):
        source.key(NGINX._replace(plugin="pkcs11"), 1.0)


def test_links_of_a_repository(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(KEY)
    directory = Path(repository_of(tmp_path / "repository"))
    path = directory / NGINX.path
    path.rename(directory / "..data")
    path.symlink_to("../../..data")  # as a Kubernetes Secret is mounted
    assert unwrap(repository.create(str(directory), {})) == OPTIONS
    path.unlink()
    path.symlink_to(tmp_path / "outside")
    source = repository.create(str(directory), {})
    assert failure(source) == f"its file '{NGINX.path}' is a link that leads out of the directory"


# -- offline


def test_files_of_resources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, other = b64encode(KEY).decode(), b64encode(bytes(32)).decode()
    first = offline_file(tmp_path / "first", {NGINX.path: other, "a/b/c": key})
    second = offline_file(tmp_path / "second", {NGINX.path: key})
    assert unwrap(offline.create(second, {})) == OPTIONS
    assert unwrap(offline.create(f"{first},{second}", {})) == OPTIONS
    assert "not wrapped with this key" in failure(offline.create(f"{second},{first}", {}))
    monkeypatch.setenv(offline.EXTRA_FILES, f"{first},{second}")
    assert unwrap(offline.create(first, {})) == OPTIONS
    monkeypatch.setenv(offline.EXTRA_FILES, str(tmp_path / "missing"))
    assert failure(offline.create(second, {})) == f"its file '{tmp_path}/missing': No such file or directory"


@pytest.mark.parametrize(
    ("resources", "reason"),
    [
        ({}, "it has no such resource"),
        ({f"kbs:///{NGINX.path}": b64encode(KEY).decode()}, "it has no such resource"),
        ({NGINX.path: "?"}, "the resource in '{}': not base64"),
        ({NGINX.path: list(KEY)}, "the resource in '{}': JSON array instead of a string"),
        ({NGINX.path: b64encode(KEY[1:]).decode()}, "it has 31 bytes, not the 32 of a key"),
        ({NGINX.path: None}, "it has 0 bytes, not the 32 of a key"),
        ([], "its file '{}': JSON array instead of an object"),
        (" " * limits.KEY_FILE_BYTES, f"its file '{{}}': it is larger than {limits.KEY_FILE_BYTES} bytes"),
    ],
)
def test_files_that_do_not_help(tmp_path: Path, resources: object, reason: str) -> None:
    file = offline_file(tmp_path / "resources.json", resources)
    assert failure(offline.create(file, {})).startswith(reason.format(file))


def test_a_packet_is_unwrapped_as_the_image_has_it() -> None:
    """What the project does not know of a packet, a guest's own agent may."""
    seen = []

    class Noting(Unwrapping):
        def unwrap(self, packet: bytes, seconds: float) -> bytes:
            seen.append(packet)
            return super().unwrap(packet, seconds)

    packet = annotation()[:-1] + b', "more": 1}'
    assert unwrap(Noting(OPTIONS), packet=packet) == OPTIONS
    assert seen == [packet]


def test_files_hold_resources_of_one_plugin(tmp_path: Path) -> None:
    """`register` and the sources of files know no other plugin than `resource`."""
    other = ResourceId("a/b/c", "pkcs11")
    source = offline.create(offline_file(tmp_path / "resources.json", {"a/b/c": b64encode(KEY).decode()}), {})
    assert isinstance(source, KeySource)
    with pytest.raises(ProviderError, match="it only has resources of the plugin resource"):
        source.key(other, 1)


def test_a_hub_that_opens_a_packet_to_something_else() -> None:
    """The mode CTR does not show a wrong key, so the failure shows only when the layer's HMAC is checked."""
    hub = Unwrapping(b"{}")
    first, second = (unwrap(hub, packet=annotation("A256CTR")) for _ in range(2))
    assert parse_private_options(first) != parse_private_options(second)
    assert failure(hub).startswith("it unwrapped the packet to malformed private options: ")
