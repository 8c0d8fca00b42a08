"""The ttrpc client at a server that containerd runs."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from decoder.provider.client import ttrpc as ttrpcclient
from decoder.provider.errors import ProviderError
from tests.support.network.ttrpc_client import entry
from tests.support.provider.client_parts import configuration, decrypt
from tests.support.provider.serving import wait_for

_STOP_SECONDS = 120


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run containerd with nothing but its own service of events, and return its ttrpc socket."""
    directory = tmp_path_factory.mktemp("containerd")
    address, settings = directory / "ttrpc", directory / "config.toml"
    settings.write_text(
        f"""\
version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
address = "{directory}/grpc"
[ttrpc]
address = "{address}"
"""
    )
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(["containerd", "--config", str(settings)], stdout=log, stderr=log)
    try:
        wait_for(lambda: address.exists() or process.poll() is not None)
        assert process.poll() is None, (directory / "log").read_text()
        yield f"unix://{address}"
    finally:
        process.terminate()
        process.wait(_STOP_SECONDS)


def test_containerd_answers(containerd: str) -> None:
    """Its own ttrpc server understands our frames, and we its replies and errors."""

    def field(number: int, value: bytes) -> bytes:
        return struct.pack("BB", number << 3 | 2, len(value)) + value

    def call(method: str, payload: bytes) -> bytes:
        return ttrpcclient.call(containerd, "containerd.services.events.ttrpc.v1.Events", method, payload, 10)

    event = field(1, b"example.com/Event") + field(2, b"")
    envelope = field(1, b"\x08\x01") + field(2, b"default") + field(3, b"/tests/event") + field(4, event)
    assert call("Forward", field(1, envelope)) == b""
    with pytest.raises(ProviderError, match=r"^it answered UNIMPLEMENTED: "):
        call("Backward", b"")
    with pytest.raises(ProviderError, match=r"^it answered [A-Z_]+: "):
        call("Forward", field(1, field(3, b"no topic")))


def test_the_installed_program_at_a_server_that_knows_no_keys(containerd: str, tmp_path: Path) -> None:
    result = decrypt(configuration(tmp_path, entry(containerd, timeout=10)))
    assert (result.status, "it answered UNIMPLEMENTED: " in result.errors) == (6, True)
