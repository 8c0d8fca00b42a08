"""A client whose certificates change while it keeps its connection: no call is lost, and new ones count at once."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from decoder.keywrap.asking import ask
from decoder.node import journal
from decoder.provider.client.config import parse_config
from decoder.provider.client.held import Held
from tests.support.keywrap.layers import private_options
from tests.support.network.certificates import Issued, issue
from tests.support.provider.client_parts import NAME, configuration, tls_files
from tests.support.provider.serving import Server, wait_for, write_key


class Sides:
    """A server and a client with TLS files of their own, which can be replaced."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authorities = {name: issue(name) for name in ("first", "second")}
        self.write("server.pem", issue("server", self.authorities["first"], ["localhost"]))
        self.write("client.pem", issue("old", self.authorities["first"]))
        self.trust("first", "second")
        self.trust_server("first", "second")
        files = {"--tls-cert": "server.pem", "--tls-key": "server.key", "--client-ca": "clients.pem"}
        self.arguments = [
            *("--provider", "local", "--key", str(write_key(directory / "key")), "--listen", "127.0.0.1:0"),
            *(argument for option, name in files.items() for argument in (option, str(directory / name))),
        ]

    def write(self, name: str, issued: Issued) -> None:
        """Replace a certificate and its key, one after the other, as certbot and others do."""
        for suffix, data in ((".key", issued.key), (".pem", issued.certificate)):
            new = self.directory / f"new{suffix}"
            new.write_bytes(data)
            new.rename((self.directory / name).with_suffix(suffix))

    def trust(self, *authorities: str) -> None:
        self._bundle("clients.pem", authorities)

    def trust_server(self, *authorities: str) -> None:
        self._bundle("servers.pem", authorities)

    def _bundle(self, name: str, authorities: tuple[str, ...]) -> None:
        new = self.directory / "new.bundle"
        new.write_bytes(b"".join(self.authorities[each].certificate for each in authorities))
        new.rename(self.directory / name)

    def caller(self, server: Server) -> Callable[[], bytes]:
        tls = tls_files(root_ca_file=self.directory / "servers.pem", certificate=self.directory / "client.pem")
        tls["server-name"] = "localhost"
        entry: dict[str, Any] = {"grpc": server.target, "grpc-tls": tls, "timeout": 20}
        (provider,) = parse_config(Path(configuration(self.directory, {NAME: entry})).read_bytes()).providers
        held = Held(60)
        return lambda: ask(provider, "keywrap", private_options(), [], held)


@pytest.fixture
def sides(tmp_path: Path) -> Sides:
    return Sides(tmp_path)


def callers(server: Server) -> list[str]:
    return [line["client"] for line in server.audit if line["operation"] == "wrap"]


def test_a_new_certificate_is_used_by_the_next_call(sides: Sides) -> None:
    with Server(sides.directory, *sides.arguments) as server:
        call = sides.caller(server)
        assert call()
        assert call()
        sides.write("client.pem", issue("new", sides.authorities["second"]))
        assert call()
        assert call()
        assert callers(server) == ["cn:old"] * 2 + ["cn:new"] * 2


def test_all_of_it_changes_under_calls_and_none_is_lost(sides: Sides) -> None:
    """Authorities, the server's certificate and the client's, in the order of a rotation."""
    with Server(sides.directory, *sides.arguments, "--processes", "2") as server:
        call, stop = sides.caller(server), threading.Event()
        failures: list[BaseException] = []

        def call_all_the_time() -> None:
            while not stop.is_set():
                try:
                    assert call()
                    time.sleep(0.01)  # enough calls, and no busy machine
                except BaseException as error:  # noqa: BLE001
                    failures.append(error)
                    return

        threads = [threading.Thread(target=call_all_the_time) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            changes: tuple[Callable[[], None], ...] = (
                lambda: sides.write("client.pem", issue("new", sides.authorities["second"])),
                lambda: sides.write("server.pem", issue("server", sides.authorities["second"], ["localhost"])),
                lambda: sides.trust_server("second"),
                lambda: sides.trust("second"),
            )
            for change in changes:
                before = len(callers(server))
                change()
                time.sleep(1.2)  # the server looks each second
                wait_for(lambda: len(callers(server)) > before + 20 or failures)  # noqa: B023
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert not failures
        assert callers(server)[-1] == "cn:new"
        assert "were read again" in server.log


def test_a_client_that_is_not_trusted_any_more_says_so(sides: Sides) -> None:
    with Server(sides.directory, *sides.arguments) as server:
        call = sides.caller(server)
        assert call()
        sides.trust("second")
        wait_for(lambda: "were read again" in server.log)
        with pytest.raises(Exception, match=r"certificate|authority"):
            call()


def test_a_certificate_that_expires_soon_is_told(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(journal, "warn", warnings.append)
    with Server(sides.directory, *sides.arguments) as server:
        call = sides.caller(server)
        assert call()
        assert not warnings
        sides.write("client.pem", issue("short", sides.authorities["first"], days=0.5))
        assert call()
    (warning,) = warnings
    assert warning.startswith(f"the certificate '{sides.directory}/client.pem' for keyproviders expires at ")


def test_a_server_with_too_many_connections_is_waited_for(sides: Sides) -> None:
    """It closes the connection at once, before the TLS handshake; that is no failure of TLS."""
    prelude = "limits.PROVIDER_SERVER_CONNECTIONS = 2"
    with Server(sides.directory, *sides.arguments, prelude=prelude) as server:
        host, _, port = server.target.rpartition(":")
        call = sides.caller(server)
        with ExitStack() as crowd, ThreadPoolExecutor(1) as pool:
            for _ in range(2):
                crowd.enter_context(socket.create_connection((host, int(port)), 20))
            waiting = pool.submit(call)
            time.sleep(3)
            assert not waiting.done() or waiting.result()  # the reason why it has failed
            crowd.close()
            assert waiting.result()
