"""Parts of `keyprovider serve` without a server: its status, its files, kept keys, and reasons of handshakes."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from decoder import limits
from decoder.provider import create
from decoder.provider.server import files, serving, tls, watch
from decoder.provider.server.connections import listening
from decoder.provider.server.numbers.status import Status
from decoder.provider.server.numbers.tally import Tally
from decoder.provider.server.sharedkeks import SharedKeks, create_file
from tests.support.keywrap.layers import ec_key, pem
from tests.support.network.x509_certificates import certificate
from tests.support.program.processes import without_modules
from tests.support.provider.serving import KEYPROVIDER, write_key

NAME = bytes(range(32))


def test_a_server_without_processes_is_not_ready() -> None:
    tally = Tally(1)
    status = Status(tally, lambda _accept: (b"", ""))
    assert status.answer("/readyz") == (503, b"no process serves\n", "text/plain; charset=utf-8")
    assert status.answer("/healthz").status == 200
    tally.rows[0].beat()
    tally.rows[0].set("backend_up", value=1)
    assert status.answer("/readyz").status == 200


def test_a_key_that_is_too_long_is_not_kept() -> None:
    keks = SharedKeks(60, create_file())
    assert keks.opened(NAME, lambda: bytes(limits.KEK_BYTES + 1), 1) == bytes(limits.KEK_BYTES + 1)
    assert keks.get(NAME) is None


def test_memory_that_cannot_be_locked_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    """The kernel maps no memory of a device that has none, as it maps none beyond RLIMIT_MEMLOCK."""
    device = os.open(os.devnull, os.O_RDWR)
    try:
        assert serving._keks(device) is None
    finally:
        os.close(device)
    assert capfd.readouterr().err == (
        "warning: key-encryption keys are not kept: their memory cannot be locked: No such device\n"
    )


def test_a_certificate_that_expires_soon_is_told_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tls.pem").write_bytes(certificate(ec_key().public_key(), days=(-1, 1)))
    (tmp_path / "tls.key").write_bytes(pem(ec_key()))
    said: list[str] = []
    security = tls.Security(str(tmp_path / "tls.pem"), str(tmp_path / "tls.key"), "", False, "")
    watched = files.Files(security, said.append, Tally(1).rows[0])
    assert not watched.look()
    assert len(said) == 1
    monkeypatch.setattr(limits, "CERTIFICATE_REMINDER_SECONDS", -1)
    assert not watched.look()
    assert said == [said[0]] * 2
    assert said[0].startswith(f"warning: the certificate {tmp_path}/tls.pem expires at ")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionResetError(104, "Connection reset by peer"), "Connection reset by peer"),
        (ConnectionResetError(), "ConnectionResetError"),
        (TimeoutError("timed out"), "TimeoutError"),
    ],
)
def test_why_a_handshake_failed(error: OSError, reason: str) -> None:
    assert tls.cause_of(error) == reason


def test_no_host_means_all_addresses() -> None:
    ((_, _, _, _, (host, port)),) = listening.resolve("", 7)
    assert (host in ("::", "0.0.0.0"), port) == (True, 7)


def test_without_grpcio_it_says_how_to_install_it(tmp_path: Path) -> None:
    command = [without_modules(tmp_path, "grpc"), "keyprovider", "serve", "--provider", "local"]
    command += ["--key", str(write_key(tmp_path / "key")), "--listen", "127.0.0.1:0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 6
    assert done.stderr.startswith("ctd-decoder: error: keyprovider local: the Python module grpc is not installed: ")


def test_a_key_service_that_does_not_answer_in_time_is_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tally = Tally(1)
    provider = create("local", {"key": str(write_key(tmp_path / "key"))})
    watched = watch.Watch(watch.Counted(tally, tally.rows[0]), provider, lambda: None)
    asyncio.run(watched._check())
    assert tally.rows[0].get("backend_up") == 1
    monkeypatch.setattr(limits, "PROVIDER_SERVER_CHECK_SECONDS", 0)
    asyncio.run(watched._check())
    assert tally.rows[0].get("backend_up") == 0


SLOW_PROCESSES = """
import time
fork = os.fork
os.fork = lambda: fork() or time.sleep(3600) or 0
limits.PROVIDER_SERVER_START_SECONDS = limits.PROVIDER_SERVER_GRACE_SECONDS = 0.1
limits.PROVIDER_SERVER_RESPAWN_SECONDS = 0.1
"""


def test_a_process_that_does_not_listen_in_time(tmp_path: Path) -> None:
    command = [*KEYPROVIDER, "serve", "--provider", "local", "--key", str(write_key(tmp_path / "key"))]
    done = subprocess.run(
        [*command, "--listen", "127.0.0.1:0", "--processes", "2"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PRELUDE": SLOW_PROCESSES},
        check=False,
    )
    assert done.returncode == 7
    assert done.stderr.endswith("ctd-decoder: error: a process of the server does not listen after 0 seconds\n")
