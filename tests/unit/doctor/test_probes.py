"""`ctd-decoder doctor` and providers without a key service: it looks at key files and sources, and opens nothing."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

import pytest

from decoder.doctor.checks import keyproviders
from tests.support.network.loopback import Loopback, json_answer
from tests.support.node.doctor_node import Node, examine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def write_key(path: Path, size: int = 32) -> Path:
    path.write_bytes(bytes(size))
    path.chmod(0o600)
    return path


def test_a_local_key(tmp_path: Path) -> None:
    key = write_key(tmp_path / "node.key")
    level, text = examine(tmp_path, "local", key=str(key))
    assert (level, "1 key of 32 bytes can be read" in text) == ("ok", True), text
    write_key(key, 31)
    level, text = examine(tmp_path, "local", key=str(key))
    assert (level, "has 31 bytes, not 32" in text) == ("error", True), text
    key.unlink()
    assert examine(tmp_path, "local", key=str(key))[0] == "error"


def test_a_directory_of_local_keys(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    level, text = examine(tmp_path, "local", keys=str(keys))
    assert (level, "holds no key" in text) == ("error", True), text
    write_key(keys / "blue")
    write_key(keys / "green")
    (keys / "..data").mkdir()
    level, text = examine(tmp_path, "local", keys=str(keys))
    assert (level, "2 keys of 32 bytes can be read" in text) == ("ok", True), text
    write_key(keys / "short", 5)
    level, text = examine(tmp_path, "local", keys=str(keys))
    assert level == "warning", text
    assert "the key local://short has 5 bytes, not 32; 2 keys" in text
    assert examine(tmp_path, "local", keys=str(keys), allow_key=["local://blue"])[0] == "ok"
    assert examine(tmp_path, "local", keys=str(keys), allow_key=["local://short"])[0] == "error"


@pytest.fixture
def server() -> Iterator[Loopback]:
    """A server that knows nothing, and says so."""
    with Loopback(lambda _: json_answer({}, 404)) as server:
        yield server


def agent(tmp_path: Path, *sources: str, **options: object) -> tuple[str, str]:
    return examine(tmp_path, "attestation-agent", source=list(sources), **options)


def test_sources_in_files(tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    (tmp_path / "keys.json").write_text("{}")
    good = [f"repository:{tmp_path}/repository", f"offline:{tmp_path}/keys.json"]
    assert agent(tmp_path, *good)[0] == "ok"
    (tmp_path / "keys.json").write_text("[")
    level, text = agent(tmp_path, *good)
    assert (level, f"offline:{tmp_path}/keys.json: its file" in text) == ("warning", True), text
    level, text = agent(tmp_path, f"repository:{tmp_path}/absent")
    assert (level, "cannot be read: No such file or directory" in text) == ("error", True), text


def test_no_source(tmp_path: Path) -> None:
    level, text = examine(tmp_path, "attestation-agent")
    assert (level, "no source is configured" in text) == ("error", True), text
    assert examine(tmp_path, "attestation-agent", allow_sample_key=True)[0] == "ok"


def test_servers(tmp_path: Path, server: Loopback) -> None:
    """They are asked for their first page, or connected to, and for no key."""
    (tmp_path / "repository").mkdir()
    here = [f"cdh-rest:{server.url}", f"cdh-grpc:127.0.0.1:{server.port}", f"kbs:{server.url}"]
    level, text = agent(tmp_path, *here, aa_url=server.url)
    assert level == "ok", text
    assert {(asked.method, asked.path) for asked in server.asked if asked.method} == {("GET", "/")}
    level, text = agent(tmp_path, here[2], aa_url="http://127.0.0.1:1")
    assert (level, "the attestation agent at http://127.0.0.1:1" in text) == ("error", True), text
    for source in ("cdh-rest:http://127.0.0.1:1", "cdh-grpc:127.0.0.1:1", "kbs:http://127.0.0.1:1"):
        level, text = agent(tmp_path, source, aa_url=server.url)
        assert (level, f"source {source}: " in text) == ("error", True), text


def test_a_token_that_is_absent(tmp_path: Path, server: Loopback) -> None:
    files = {"kbs_token": f"{tmp_path}/token", "tee_key": f"{tmp_path}/tee.pem"}
    level, text = agent(tmp_path, f"kbs:{server.url}", **files)
    assert (level, "the kbs-token" in text) == ("error", True), text
    assert server.asked == []


def test_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "cdh.sock"
    level, text = agent(tmp_path, f"cdh-ttrpc:{path}")
    assert (level, "no connection: No such file or directory" in text) == ("error", True), text
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        assert agent(tmp_path, f"cdh-ttrpc:{path}")[0] == "ok"


@pytest.mark.parametrize(
    ("entry", "level", "text"),
    [
        ({"grpc": "unix:PLACE/socket"}, "ok", ""),
        ({"grpc": "unix:PLACE/absent"}, "error", "No such file or directory"),
        ({"grpc": "localhost"}, "error", "the address 'localhost' has no port"),
        ({"grpc": "127.0.0.1:1", "grpc-tls": {"root-ca-file": "/absent"}}, "error", "'/absent' cannot be read"),
    ],
)
def test_grpc(entry: dict[str, object], level: str, text: str, tmp_path: Path) -> None:
    """A server is connected to, and gets no request."""
    file = tmp_path / "providers.conf"
    file.write_text(json.dumps({"key-providers": {"tested": entry}}).replace("PLACE", str(tmp_path)))
    file.chmod(0o600)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(f"{tmp_path}/socket")
        listener.listen()
        (finding,) = [each for each in keyproviders.check(Node(file)) if each.subject == "keyprovider tested"]
    assert (finding.level, text in finding.text) == (level, True), finding
