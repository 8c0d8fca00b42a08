"""`ctd-decoder keyprovider serve`: the service, who may connect to it, its bounds and its end."""

from __future__ import annotations

import signal
import socket
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from decoder import limits
from tests.support.certificates import issue
from tests.support.serving import (
    Server,
    ask,
    contents,
    execute,
    message,
    method_of,
    request_of,
    result_of,
    wait_for,
    write_key,
)

OPTIONS = b'{"symkey":"c2VjcmV0","digest":"sha256:0","cipheroptions":{}}'
WRAP = request_of("keywrap", OPTIONS)
SERVICE = "keyprovider.KeyProviderService"
LOOPBACK = ("--listen", "127.0.0.1:0")
# A provider that takes its time, and says so when it starts.
SLOW = """
import time
from decoder.provider import Use
from decoder.provider.services.local import Local
def wrap(self, options, parameters):
    def run(_):
        os.write(2, b"slow wrap started\\n")
        time.sleep({seconds})
        return b"wrapped"
    return Use(("local://slow",), run)
Local.wrap = wrap
"""


@pytest.fixture
def local(tmp_path: Path) -> tuple[str, ...]:
    return ("--provider", "local", "--key", str(write_key(tmp_path / "image.key")))


@contextmanager
def connected(server: Server, credentials: grpc.ChannelCredentials | None = None) -> Iterator[grpc.Channel]:
    options = (("grpc.ssl_target_name_override", "localhost"),) if credentials else ()
    target = server.target.replace("0.0.0.0", "127.0.0.1")
    channel = (
        grpc.secure_channel(target, credentials, options=options) if credentials else grpc.insecure_channel(target)
    )
    with channel:
        yield channel


def failure(channel: grpc.Channel, method: str, data: bytes) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        method_of(channel, method)(data, timeout=20)
    assert isinstance(caught.value, grpc.Call)
    return caught.value.code(), str(caught.value.details())


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:0", "[::1]:0", "unix://{}/kp.sock"])
def test_wraps_and_unwraps(local: tuple[str, ...], tmp_path: Path, address: str) -> None:
    with (
        Server(tmp_path, *local, "--listen", address.format(tmp_path)) as server,
        connected(server) as channel,
    ):
        annotation = result_of(ask(channel, "WrapKey", WRAP))
        assert result_of(ask(channel, "UnWrapKey", request_of("keyunwrap", annotation))) == OPTIONS
    assert "stopped" in server.log


def test_the_option_of_the_published_google_server_means_loopback(local: tuple[str, ...], tmp_path: Path) -> None:
    with Server(tmp_path, *local, "--grpcport", ":0") as server, connected(server) as channel:
        assert server.target.startswith("127.0.0.1:")
        assert ask(channel, "WrapKey", WRAP)


# -- sockets


def test_the_socket_is_the_users_alone_and_goes_with_the_server(local: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "kp.sock"
    with Server(tmp_path, *local, "--listen", f"unix://{path}"):
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


def test_a_stale_socket_is_replaced(local: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "kp.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with Server(tmp_path, *local, "--listen", f"unix://{path}") as server, connected(server) as channel:
        assert ask(channel, "WrapKey", WRAP)


def test_a_living_socket_is_not(local: tuple[str, ...], tmp_path: Path) -> None:
    listen = ("--listen", f"unix://{tmp_path}/kp.sock")
    with Server(tmp_path, *local, *listen) as server:
        second = execute("serve", *local, *listen)
        assert (second.returncode, second.stdout) == (7, b"")
        assert b"another program uses this socket" in second.stderr
        with connected(server) as channel:
            assert ask(channel, "WrapKey", WRAP)


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET, socket.SOCK_STREAM])
def test_another_programs_socket_stays(local: tuple[str, ...], tmp_path: Path, kind: socket.SocketKind) -> None:
    path = tmp_path / "kp.sock"
    with socket.socket(socket.AF_UNIX, kind) as other, socket.socket(socket.AF_UNIX, kind) as client:
        other.bind(str(path))
        if kind != socket.SOCK_DGRAM:
            other.listen(0)  # a backlog of one, which the client fills
        client.connect(str(path))
        before = path.lstat().st_ino
        refused = execute("serve", *local, "--listen", f"unix://{path}")
        assert (refused.returncode, path.lstat().st_ino) == (7, before)
    assert b"another program uses this socket" in refused.stderr


def test_what_is_no_place_for_a_socket(local: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("keep")
    for path, status, text in (
        (str(file), 7, "is not a socket"),
        (f"{tmp_path}/missing/kp.sock", 7, "No such file or directory"),
        ("kp.sock", 2, "absolute path"),
        (f"{tmp_path}/{'x' * 120}", 2, "at most 107 bytes"),
    ):
        result = execute("serve", *local, "--listen", f"unix://{path}")
        assert (result.returncode, text in result.stderr.decode()) == (status, True), result.stderr
        assert result.stderr.count(b"\n") == 1
    assert file.read_text() == "keep"


def test_a_port_in_use(local: tuple[str, ...], tmp_path: Path) -> None:
    with Server(tmp_path, *local, *LOOPBACK) as server:
        second = execute("serve", *local, "--listen", server.target)
    assert second.returncode == 7
    assert b"in use" in second.stderr
    assert second.stderr.count(b"\n") == 1


def test_an_address_of_another_machine(local: tuple[str, ...]) -> None:
    result = execute("serve", *local, "--listen", "192.0.2.1:0", "--insecure")
    assert result.returncode == 7
    assert b"Cannot assign requested address" in result.stderr
    assert result.stderr.count(b"\n") == 1


# -- who may connect


@pytest.mark.parametrize("address", ["0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:0"])
def test_refuses_other_machines_without_tls(local: tuple[str, ...], address: str) -> None:
    result = execute("serve", *local, "--listen", address)
    assert result.returncode == 2
    assert b"reached from other machines" in result.stderr


@pytest.mark.parametrize("address", ["localhost", "127.0.0.1:x", "127.0.0.1:70000", "http://127.0.0.1:1", ""])
def test_addresses_that_are_none(local: tuple[str, ...], address: str) -> None:
    assert execute("serve", *local, "--listen", address).returncode in (2, 7)


def test_insecure_allows_it_with_a_warning(local: tuple[str, ...], tmp_path: Path) -> None:
    with Server(tmp_path, *local, "--listen", "0.0.0.0:0", "--insecure") as server, connected(server) as channel:
        assert ask(channel, "WrapKey", WRAP)
        assert "warning: everybody who can reach" in server.log


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("certificates")
    for authority, parts in (("ca", ("server", "client")), ("other-ca", ("stranger",))):
        own = issue(authority)
        own.write(directory / f"{authority}.pem")
        for name in parts:
            issue(name, own, ["localhost"] if name == "server" else None).write(directory / f"{name}.pem")
    return directory


def tls(directory: Path, *, client_ca: str = "") -> list[str | Path]:
    options: list[str | Path] = ["--tls-cert", directory / "server.pem", "--tls-key", directory / "server.key"]
    return [*options, "--client-ca", directory / f"{client_ca}.pem"] if client_ca else options


def credentials(directory: Path, name: str = "", ca: str = "ca") -> grpc.ChannelCredentials:
    root = (directory / f"{ca}.pem").read_bytes()
    if not name:
        return grpc.ssl_channel_credentials(root)
    key, certificate = ((directory / f"{name}.{suffix}").read_bytes() for suffix in ("key", "pem"))
    return grpc.ssl_channel_credentials(root, key, certificate)


def test_tls(local: tuple[str, ...], tmp_path: Path, certificates: Path) -> None:
    with Server(tmp_path, *local, "--listen", "0.0.0.0:0", *tls(certificates)) as server:
        with connected(server, credentials(certificates)) as channel:
            assert ask(channel, "WrapKey", WRAP)
        for refused in (None, credentials(certificates, ca="other-ca")):
            with connected(server, refused) as channel:
                assert failure(channel, f"/{SERVICE}/WrapKey", message(WRAP))[0] == grpc.StatusCode.UNAVAILABLE
    assert "--client-ca asks for a certificate" in server.log
    assert len(server.audit) == 1


def test_mutual_tls(local: tuple[str, ...], tmp_path: Path, certificates: Path) -> None:
    with Server(tmp_path, *local, "--listen", "0.0.0.0:0", *tls(certificates, client_ca="ca")) as server:
        with connected(server, credentials(certificates, "client")) as channel:
            assert ask(channel, "WrapKey", WRAP)
        for refused in (None, credentials(certificates), credentials(certificates, "stranger")):
            with connected(server, refused) as channel:
                assert failure(channel, f"/{SERVICE}/WrapKey", message(WRAP))[0] == grpc.StatusCode.UNAVAILABLE
    assert "warning" not in server.log
    assert len(server.audit) == 1


def test_tls_files_are_read_again_when_they_change(
    local: tuple[str, ...], tmp_path: Path, certificates: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Connections stay; the next handshake uses the new files, or the earlier ones while those cannot be used."""
    files = tmp_path_factory.mktemp("tls")
    for suffix in ("key", "pem"):
        (files / f"server.{suffix}").write_bytes((certificates / f"server.{suffix}").read_bytes())
    (files / "ca.pem").write_bytes((certificates / "ca.pem").read_bytes())
    with (
        Server(tmp_path, *local, *LOOPBACK, *tls(files, client_ca="ca")) as server,
        connected(server, credentials(certificates, "client")) as old,
    ):
        assert ask(old, "WrapKey", WRAP)
        (files / "server.pem").write_text("garbage")
        with connected(server, credentials(certificates, "client")) as channel:
            assert ask(channel, "WrapKey", WRAP)
        assert "cannot be used; the earlier ones stay" in server.log
        (files / "server.pem").write_bytes((certificates / "server.pem").read_bytes())
        (files / "ca.pem").write_bytes((certificates / "other-ca.pem").read_bytes())
        with connected(server, credentials(certificates, "client")) as channel:
            assert failure(channel, f"/{SERVICE}/WrapKey", message(WRAP))[0] == grpc.StatusCode.UNAVAILABLE
        with connected(server, credentials(certificates, "stranger")) as channel:
            assert ask(channel, "WrapKey", WRAP)
        assert "the TLS files have changed and were read again" in server.log
        assert ask(old, "WrapKey", WRAP)


def test_a_certificate_that_expires_soon_is_told(local: tuple[str, ...], tmp_path: Path, certificates: Path) -> None:
    prelude = "limits.CERTIFICATE_WARNING_SECONDS = 10 * 24 * 3600"
    with Server(tmp_path, *local, *LOOPBACK, *tls(certificates), prelude=prelude) as server:
        assert f"warning: the certificate {certificates}/server.pem expires at " in server.log


def test_tls_files_that_do_not_do(local: tuple[str, ...], tmp_path: Path, certificates: Path) -> None:
    encrypted, garbage = tmp_path / "encrypted.key", tmp_path / "garbage.pem"
    loaded = load_pem_private_key((certificates / "server.key").read_bytes(), None)
    encrypted.write_bytes(loaded.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")))
    garbage.write_text("garbage")
    certificate, key = certificates / "server.pem", certificates / "server.key"
    cases: list[tuple[list[str | Path], int]] = [
        (["--tls-cert", certificate], 2),
        (["--tls-key", key], 2),
        (["--client-ca", certificate], 2),
        (["--tls-cert", certificate, "--tls-key", certificates / "client.key"], 7),
        (["--tls-cert", certificate, "--tls-key", encrypted], 7),
        (["--tls-cert", garbage, "--tls-key", key], 7),
        (["--tls-cert", tmp_path / "missing", "--tls-key", key], 7),
        (["--tls-cert", certificate, "--tls-key", key, "--client-ca", garbage], 7),
    ]
    for options, status in cases:
        result = execute("serve", *local, *LOOPBACK, *options)
        assert (result.returncode, result.stderr.count(b"\n")) == (status, 1), result.stderr


# -- what is asked


def test_health(local: tuple[str, ...], tmp_path: Path) -> None:
    with Server(tmp_path, *local, *LOOPBACK) as server, connected(server) as channel:
        check = method_of(channel, "/grpc.health.v1.Health/Check")
        assert [check(request, timeout=5) for request in (b"", message(SERVICE.encode()))] == [b"\x08\x01"] * 2
        status, _ = failure(channel, "/grpc.health.v1.Health/Check", message(b"nobody"))
        assert status == grpc.StatusCode.NOT_FOUND
        status, _ = failure(channel, "/grpc.health.v1.Health/Check", b"\xff")
        assert status == grpc.StatusCode.INVALID_ARGUMENT
        watch: Any = channel.unary_stream("/grpc.health.v1.Health/Watch")
        known, unknown = watch(b"", timeout=20), watch(message(b"nobody"), timeout=20)
        assert (next(known), next(unknown)) == (b"\x08\x01", b"\x08\x03")
        server.process.send_signal(signal.SIGTERM)
        assert (list(known), list(unknown)) == ([b"\x08\x02"], [])


@pytest.mark.parametrize(
    "method",
    [
        f"/{SERVICE}/Other",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    ],
)
def test_there_is_nothing_else(local: tuple[str, ...], tmp_path: Path, method: str) -> None:
    with Server(tmp_path, *local, *LOOPBACK) as server, connected(server) as channel:
        assert failure(channel, method, b"")[0] == grpc.StatusCode.UNIMPLEMENTED


def test_malformed_requests(local: tuple[str, ...], tmp_path: Path) -> None:
    with Server(tmp_path, *local, *LOOPBACK) as server, connected(server) as channel:
        for method, data in (
            ("WrapKey", b""),
            ("WrapKey", b"\xff"),
            ("WrapKey", b"\x0a\x05ab"),
            ("WrapKey", b"\x08\x01"),
            ("WrapKey", message(b"{")),
            ("UnWrapKey", message(WRAP)),
            ("WrapKey", message(request_of("keyunwrap", b"{}"))),
        ):
            assert failure(channel, f"/{SERVICE}/{method}", data)[0] == grpc.StatusCode.INVALID_ARGUMENT
        unknown_field = message(WRAP) + b"\x10\x01"
        assert contents(method_of(channel, f"/{SERVICE}/WrapKey")(unknown_field, timeout=5))
    assert server.log.count("malformed request from ipv4:127.0.0.1:") == 7
    assert len(server.audit) == 1


def test_what_the_provider_says_reaches_the_client(local: tuple[str, ...], tmp_path: Path) -> None:
    with Server(tmp_path, *local, *LOOPBACK) as server, connected(server) as channel:
        request = message(request_of("keywrap", OPTIONS, {"x": ["other"]}))
        code, text = failure(channel, f"/{SERVICE}/WrapKey", request)
    assert code == grpc.StatusCode.INTERNAL
    assert text == "the key 'local://other' is not the configured one (allow-key can allow more)"


def test_what_a_defect_says_does_not(local: tuple[str, ...], tmp_path: Path) -> None:
    prelude = """
from decoder.provider.services.local import Local
def wrap(self, options, parameters):
    raise ValueError("the key is SECRET")
Local.wrap = wrap
"""
    with Server(tmp_path, *local, *LOOPBACK, prelude=prelude) as server, connected(server) as channel:
        answer = failure(channel, f"/{SERVICE}/WrapKey", message(WRAP))
        assert answer == (grpc.StatusCode.INTERNAL, "internal error")
    assert "internal error: ValueError at" in server.log
    assert "SECRET" not in server.log
    assert server.audit[0]["reason"] == "internal"


# -- bounds


def test_messages_that_are_too_long(local: tuple[str, ...], tmp_path: Path) -> None:
    with Server(tmp_path, *local, *LOOPBACK) as server, connected(server) as channel:
        longest = WRAP + b" " * (limits.PROVIDER_MESSAGE_BYTES - len(WRAP))
        assert ask(channel, "WrapKey", longest)
        code, _ = failure(channel, f"/{SERVICE}/WrapKey", message(longest + b" " * 20))
        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert ask(channel, "WrapKey", WRAP)


def test_calls_beyond_the_bound_are_refused_at_once(local: tuple[str, ...], tmp_path: Path) -> None:
    prelude = "limits.PROVIDER_SERVER_CALLS = 2" + SLOW.format(seconds=1)
    with Server(tmp_path, *local, *LOOPBACK, prelude=prelude) as server, connected(server) as channel:
        call = method_of(channel, f"/{SERVICE}/WrapKey")
        running = [call.future(message(WRAP), timeout=20) for _ in range(2)]
        wait_for(lambda: server.log.count("slow wrap started") == 2)
        before = time.monotonic()
        assert failure(channel, f"/{SERVICE}/WrapKey", message(WRAP))[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert time.monotonic() - before < 0.5
        assert [result_of(contents(future.result())) for future in running] == [b"wrapped"] * 2
        assert ask(channel, "WrapKey", WRAP)


def test_a_provider_that_hangs_holds_up_its_own_call_alone(local: tuple[str, ...], tmp_path: Path) -> None:
    prelude = "limits.PROVIDER_SECONDS = 0.5" + SLOW.format(seconds="100 if parameters else 0")
    hanging = message(request_of("keywrap", OPTIONS, {"x": ["hang"]}))
    with Server(tmp_path, *local, *LOOPBACK, prelude=prelude) as server, connected(server) as channel:
        slow = method_of(channel, f"/{SERVICE}/WrapKey").future(hanging, timeout=20)
        assert result_of(ask(channel, "WrapKey", WRAP)) == b"wrapped"
        assert not slow.done()
        assert slow.details() == "the provider did not answer within 0.5 seconds"
        assert slow.code() == grpc.StatusCode.INTERNAL


# -- the end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_running_call_may_end(local: tuple[str, ...], tmp_path: Path, number: signal.Signals) -> None:
    with (
        Server(tmp_path, *local, *LOOPBACK, prelude=SLOW.format(seconds=1)) as server,
        connected(server) as channel,
        connected(server) as late,
    ):
        running = method_of(channel, f"/{SERVICE}/WrapKey").future(message(WRAP), timeout=20)
        wait_for(lambda: "slow wrap started" in server.log)
        server.process.send_signal(number)
        wait_for(lambda: not accepts(server.target))
        refused, _ = failure(late, f"/{SERVICE}/WrapKey", message(WRAP))
        assert refused in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)  # clients try again after both
        assert result_of(contents(running.result())) == b"wrapped"
        assert server.process.wait(5) == 0


def test_a_call_that_hangs_is_ended(local: tuple[str, ...], tmp_path: Path) -> None:
    prelude = "limits.PROVIDER_SERVER_GRACE_SECONDS = 0.3" + SLOW.format(seconds=100)
    listen = ("--listen", f"unix://{tmp_path}/kp.sock")
    with Server(tmp_path, *local, *listen, prelude=prelude) as server, connected(server) as channel:
        running = method_of(channel, f"/{SERVICE}/WrapKey").future(message(WRAP), timeout=20)
        wait_for(lambda: "slow wrap started" in server.log)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(5) == 0
        assert running.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert not (tmp_path / "kp.sock").exists()


def accepts(target: str) -> bool:
    host, _, port = target.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 1).close()
    except OSError:
        return False
    return True


def test_many_at_once(local: tuple[str, ...], tmp_path: Path) -> None:
    with Server(tmp_path, *local, *LOOPBACK) as server, connected(server) as channel, ThreadPoolExecutor(64) as pool:
        annotation = result_of(ask(channel, "WrapKey", WRAP))
        request = request_of("keyunwrap", annotation)
        replies = list(pool.map(lambda _: ask(channel, "UnWrapKey", request), range(640)))
    assert {result_of(reply) for reply in replies} == {OPTIONS}
    assert len(server.audit) == 641
