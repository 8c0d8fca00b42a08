"""The keyprovider openbao with a real server that refuses."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from decoder.formats import wire
from decoder.provider import create
from tests.support.network.loopback import Authority, Loopback, json_answer
from tests.support.services.bao_server import BaoServer

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
from tests.support.services.openbao_parts import annotation, failure, provider


def test_denied(bao: BaoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAO_TOKEN", bao.token("layers"))
    text = failure(provider(bao, key="other").wrap, b"options", [])
    assert bao.url.removeprefix("https://") in text
    assert "Forbidden" in text
    assert "permission denied" in text


def test_deleted_key(bao: BaoServer, as_root: None, monkeypatch: pytest.MonkeyPatch) -> None:
    bao.add_key("short-lived")
    wrapped = provider(bao, key="short-lived").wrap(b"options", [])
    bao.post("transit/keys/short-lived/config", deletion_allowed=True)
    bao.admin.delete("transit/keys/short-lived")
    text = failure(provider(bao, key="short-lived").unwrap, wrapped, [])
    assert "encryption key not found" in text
    assert "no handler for route" in failure(provider(bao, key="layers", mount="gone").wrap, b"options", [])


def test_changed_ciphertext(bao: BaoServer, as_root: None) -> None:
    wrapped = json.loads(provider(bao, key="layers").wrap(b"options", []))
    raw = bytearray(wire.decode_base64(wrapped["wrapped_key"].split(":")[2]))
    for at in (0, 11, 12, len(raw) - 1):
        changed = bytes(raw[:at]) + bytes([raw[at] ^ 1]) + bytes(raw[at + 1 :])
        text = failure(
            provider(bao, key="layers").unwrap, annotation(wrapped_key="vault:v1:" + wire.encode_base64(changed)), []
        )
        assert "InvalidRequest" in text


def test_sealed(tmp_path: Path, as_root: None) -> None:
    server = BaoServer(tmp_path)
    try:
        ca_file = server.ca_file.read_bytes()
        server.add_key("layers")
        keys = provider(server, key="layers")
        wrapped = keys.wrap(b"options", [])
        server.post("sys/seal")
        begin = time.monotonic()
        text = failure(keys.unwrap, wrapped, [])
        assert "VaultDown" in text
        assert "sealed" in text
        assert time.monotonic() - begin < 15, "there is no point in waiting for it"
    finally:
        server.stop()
    assert "does not exist" in failure(keys.unwrap, wrapped, []), "it removes what it had made"
    server.ca_file.write_bytes(ca_file)
    assert "cannot be reached: Connection refused" in failure(keys.unwrap, wrapped, [])


def test_wrong_authority(bao: BaoServer, as_root: None, tmp_path: Path) -> None:
    other = Authority(tmp_path)
    text = failure(provider(bao, key="layers", ca_file=str(other.file)).wrap, b"options", [])
    assert "the certificate of 127.0.0.1:" in text
    assert "not accepted" in text
    system = create("openbao", {"address": bao.url, "key": "layers"})
    assert "not accepted" in failure(system.wrap, b"options", [])
    named = bao.url.replace("127.0.0.1", "127.0.0.2")
    assert "cannot be reached" in failure(provider(bao, address=named, key="layers").wrap, b"options", [])


def test_wrong_name(tmp_path: Path, as_root: None) -> None:
    authority = Authority(tmp_path)
    with Loopback(lambda _: json_answer({}), authority.server_context("bao.example")) as server:
        keys = create("openbao", {"address": server.url, "ca-file": str(authority.file), "key": "layers"})
        text = failure(keys.wrap, b"options", [])
        assert "not accepted" in text
        assert "mismatch" in text
        assert server.asked == []
