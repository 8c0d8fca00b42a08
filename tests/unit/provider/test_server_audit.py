"""The audit: a line for each operation, and no key material in it."""

from __future__ import annotations

import json
import socket
from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from decoder.provider import Use
from decoder.provider.audit import Provider
from decoder.provider.errors import ProviderError
from tests.support.provider.serving import SAMPLE_KEY, Server, ask, execute, request_of, write_key

OPTIONS = b'{"symkey":"c2VjcmV0","digest":"sha256:0","cipheroptions":{}}'


def test_a_server_writes_a_line_for_each_operation(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    for name in ("a", "b"):
        write_key(keys / name)
    options = ("--provider", "local", "--keys", keys, "--allow-key", "local://a")
    with Server(tmp_path, *options, "--listen", "127.0.0.1:0") as server, grpc.insecure_channel(server.target) as to:
        ask(to, "WrapKey", request_of("keywrap", OPTIONS, {"x": ["a"]}))
        for request in (request_of("keywrap", OPTIONS, {"x": ["b"]}), request_of("keywrap", OPTIONS, {"x": ["../a"]})):
            with pytest.raises(grpc.RpcError):
                ask(to, "WrapKey", request)
        with pytest.raises(grpc.RpcError):
            ask(to, "UnWrapKey", request_of("keyunwrap", b'{"wrap_type":"AES","key_url":"a","wrapped_key":"AAAA"}'))
    lines = server.audit
    for line in lines:
        text = line.pop("time")
        assert int(line.pop("milliseconds")) >= 0
        assert line.pop("address").startswith("ipv4:127.0.0.1:")
        assert line.pop("client") == ""
        assert text.endswith("Z")
        assert abs(datetime.fromisoformat(text) - datetime.now(UTC)) < timedelta(minutes=1)
    assert lines == [
        {"provider": "local", "operation": "wrap", "key": "local://a", "outcome": "ok"},
        {
            "provider": "local",
            "operation": "wrap",
            "key": "local://b",
            "outcome": "failed",
            "reason": "refused",
            "cause": "the key 'local://b' does not match any allow-key",
        },
        {
            "provider": "local",
            "operation": "wrap",
            "key": "",
            "outcome": "failed",
            "reason": "failed",
            "cause": "'../a' is not the name of a local key: letters, digits, _, - and . only",
        },
        {
            "provider": "local",
            "operation": "unwrap",
            "key": "local://a",
            "outcome": "failed",
            "reason": "failed",
            "cause": "it was not wrapped with the key local://a, or was changed",
        },
    ]
    for secret in (SAMPLE_KEY, OPTIONS, b"c2VjcmV0", b64encode(SAMPLE_KEY), SAMPLE_KEY.hex().encode()):
        assert secret.decode() not in server.log


def test_the_journal_gets_it_too_with_a_severity(tmp_path: Path) -> None:
    address = str(tmp_path / "log")
    key = write_key(tmp_path / "sample.key")
    prelude = f"from decoder.node import journal; journal.log.__defaults__ = (None, '', {address!r})"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(address)
        journal.settimeout(5)
        for name in ("sample.key", "other"):
            request = request_of("keywrap", OPTIONS, {"x": [name]})
            execute("run", "--provider", "local", "--key", key, request=request, prelude=prelude)
        lines = [journal.recv(65536).decode() for _ in range(2)]
    for line, priority, outcome in zip(lines, ("<14>", "<12>"), ("ok", "failed"), strict=True):
        head, _, text = line.partition(": ")
        assert head.startswith(f"{priority}ctd-decoder[")
        assert json.loads(text)["outcome"] == outcome


class Checking:
    """A key service that fails if that is the name of its key."""

    def wrap(self, options: bytes, parameters: Sequence[str]) -> Use:
        def run(_seconds: float) -> bytes:
            if parameters[0] == "fail":
                raise ProviderError("why\n" + "y" * 1000)
            if parameters[0] == "crash":
                raise RuntimeError("secret")
            return options

        return Use((parameters[0],), run)

    unwrap = wrap


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("pkcs11:token=t;object=o?pin-value=1234&module-path=/x", "pkcs11:token=t;object=o"),
        ("a\nb\x1b[2J", "a\\nb\\x1b[2J"),
        ("k" * 100_000, "k" * 200),
        ("\U0001f511", "\\U0001f511"),
    ],
)
def test_names_of_keys_are_one_bounded_line_without_a_pin(key: str, shown: str) -> None:
    lines: list[str] = []
    Provider("p", Checking(), lines.append).wrap(b"x", [key])
    (line,) = lines
    assert "\n" not in line
    assert len(line) < 1000
    assert json.loads(line)["key"] == shown


def test_reasons_are_classes() -> None:
    lines: list[str] = []
    audited = Provider("p", Checking(), lines.append)
    with pytest.raises(ProviderError):
        audited.unwrap(b"x", ["fail"])
    with pytest.raises(RuntimeError):
        audited.wrap(b"x", ["crash"])
    assert [json.loads(line)["reason"] for line in lines] == ["failed", "internal"]
    assert [json.loads(line)["cause"] for line in lines] == [("why\\n" + "y" * 1000)[:500], "RuntimeError"]
    assert "secret" not in "".join(lines)
