"""Keyproviders that are gRPC servers: plain, Unix sockets, TLS and mutual TLS, and all that goes wrong."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from decoder import limits
from decoder.formats import wire
from decoder.keywrap.keyprovider import KeyProvider
from tests.support.keywrap.layers import encrypted, private_options
from tests.support.provider.client_parts import (
    LOCAL,
    NAME,
    NO_CERTIFICATE,
    PLAINTEXT,
    Certificates,
    cause,
    configuration,
    decrypt,
    free_port,
    grpc_entry,
    reply,
    serving,
    tls_files,
    turn,
    unwrap,
)

SECONDS = 4  # more than a busy machine needs to import grpcio, less than anybody wants to wait
SHORT_SECONDS = 1  # where grpcio has been imported and the time limit is what is waited for
QUICK_SECONDS = 30.0


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def local(certificates: Certificates) -> Path:
    return certificates.issue(*LOCAL)


@pytest.fixture(autouse=True)
def quickly() -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < QUICK_SECONDS


def test_a_server_opens_the_layer(tmp_path: Path) -> None:
    with serving() as server:
        config_file = configuration(tmp_path, grpc_entry(server.address))
        result = decrypt(config_file, parameters={"privkeys": [b"canary"], NAME: [b"own"]})
    assert (result.status, result.plaintext) == (0, PLAINTEXT)
    (request,) = server.requests()
    shared = set(request["keyunwrapparams"]["dc"]["Parameters"])
    assert shared == {NAME}


def test_over_a_unix_socket(tmp_path: Path) -> None:
    with serving(f"unix://{tmp_path}/socket") as server:
        assert decrypt(configuration(tmp_path, grpc_entry(server.address))) == (0, PLAINTEXT, "")


def test_what_we_wrap_we_open(tmp_path: Path) -> None:
    with serving() as server:
        config_file = configuration(tmp_path, grpc_entry(server.address))
        annotation = KeyProvider(NAME, config_file).wrap(private_options(), [b"the key"])
        layer = encrypted(PLAINTEXT, {f"provider.{NAME}": [annotation]})
        assert decrypt(config_file, layer) == (0, PLAINTEXT, "")
    first = server.requests()[0]
    assert (first["op"], first["keywrapparams"]["ec"]["Parameters"]) == (
        "keywrap",
        {NAME: [wire.encode_base64(b"the key")]},
    )


def test_integers(tmp_path: Path) -> None:
    with serving(answer=lambda *_: reply(private_options(), integers=True).encode()) as server:
        assert decrypt(configuration(tmp_path, grpc_entry(server.address))) == (0, PLAINTEXT, "")


def test_tls(certificates: Certificates, local: Path, tmp_path: Path) -> None:
    with serving(certificate=local) as server:
        config_file = configuration(
            tmp_path, grpc_entry(server.address, tls_files(root_ca_file=certificates.authority()))
        )
        assert decrypt(config_file) == (0, PLAINTEXT, "")


def test_the_systems_authorities(certificates: Certificates, local: Path, tmp_path: Path) -> None:
    with serving(certificate=local) as server:
        config_file = configuration(tmp_path, grpc_entry(server.address, {}))
        result = decrypt(config_file)
        assert (result.status, "it is not from a trusted authority" in result.errors) == (6, True)
        trusting = {"SSL_CERT_FILE": str(certificates.authority())}
        assert decrypt(config_file, environment=trusting) == (0, PLAINTEXT, "")


def test_tls_over_a_unix_socket(certificates: Certificates, local: Path, tmp_path: Path) -> None:
    authority = certificates.authority()
    with serving(f"unix://{tmp_path}/socket", certificate=local) as server:
        config_file = configuration(tmp_path, grpc_entry(server.address, tls_files(root_ca_file=authority)))
        assert unwrap(config_file) == private_options()
        other = tls_files(root_ca_file=authority, server_name="other")
        assert cause(tmp_path, grpc_entry(server.address, other)).startswith(
            "its certificate is not accepted for 'other': it is for another"
        )


def test_mutual_tls(certificates: Certificates, local: Path, tmp_path: Path) -> None:
    authority, ours = certificates.authority(), certificates.issue("node")
    theirs = certificates.issue("node", authority="others")
    with serving(certificate=local, client_authority=authority) as server:
        files = tls_files(root_ca_file=authority, certificate=ours)
        assert decrypt(configuration(tmp_path, grpc_entry(server.address, files))) == (0, PLAINTEXT, "")
        for refused in (tls_files(root_ca_file=authority), tls_files(root_ca_file=authority, certificate=theirs)):
            assert cause(tmp_path, grpc_entry(server.address, refused)).startswith(NO_CERTIFICATE)
            result = decrypt(configuration(tmp_path, grpc_entry(server.address, refused)))
            assert (result.status, result.plaintext) == (6, b"")
            assert NO_CERTIFICATE in result.errors
    assert len(server.messages) == 1


def test_whom_not_to_trust(certificates: Certificates, local: Path, tmp_path: Path) -> None:
    """Nothing is sent to them, and nothing but our own message appears on standard error."""
    ours, others = certificates.authority(), certificates.authority("others")
    cases = [
        (local, tls_files(root_ca_file=others), "its certificate is not accepted for '127.0.0.1': it is not from a"),
        (
            certificates.issue("kms.test"),
            tls_files(root_ca_file=ours),
            "its certificate is not accepted for '127.0.0.1': it is for another name",
        ),
        (
            certificates.issue(*LOCAL, days=-1),
            tls_files(root_ca_file=ours),
            "its certificate is not accepted for '127.0.0.1': it has expired",
        ),
    ]
    for certificate, files, text in cases:
        with serving(certificate=certificate) as server:
            result = decrypt(configuration(tmp_path, grpc_entry(server.address, files)))
        assert (result.status, result.plaintext, server.messages) == (6, b"", [])
        assert f"(gRPC at '{server.address}'): {text}" in result.errors
        assert result.errors.startswith("ctd-decoder: error: no key opens this layer\n  org.opencontainers")
        assert len(result.errors.splitlines()) == 2


def test_another_server_name(certificates: Certificates, tmp_path: Path) -> None:
    with serving(certificate=certificates.issue("kms.test")) as server:
        files = tls_files(root_ca_file=certificates.authority(), server_name="kms.test")
        assert unwrap(configuration(tmp_path, grpc_entry(server.address, files))) == private_options()


def test_tls_with_a_plain_server_and_the_reverse(certificates: Certificates, local: Path, tmp_path: Path) -> None:
    for files in (tls_files(root_ca_file=certificates.authority()), tls_files(insecure_skip_verify=True)):
        with serving() as server:
            assert "it does not speak TLS" in cause(tmp_path, grpc_entry(server.address, files))
    with serving(certificate=local) as server:
        assert cause(tmp_path, grpc_entry(server.address, timeout=SECONDS)).startswith("it cannot be reached: ")


def test_files_that_cannot_be_used(certificates: Certificates, local: Path, tmp_path: Path) -> None:
    authority = certificates.authority()
    mixed = {**tls_files(certificate=local), "key-file": str(authority.with_suffix(".key"))}
    cases = [
        (tls_files(root_ca_file="/none.pem"), "its root-ca-file '/none.pem': No such file or directory"),
        (tls_files(root_ca_file=local.with_suffix(".key")), "holds no PEM certificate"),
        (tls_files(root_ca_file="/bin/busybox"), "its root-ca-file '/bin/busybox': it is larger than"),
        (tls_files(root_ca_file=tmp_path), "it is not a regular file"),
        (tls_files(cert_file="/none", key_file="/none"), "its cert-file '/none': No such file or directory"),
        (mixed, "are not a matching certificate and key in PEM"),
    ]
    for files, text in cases:
        assert text in cause(tmp_path, grpc_entry("127.0.0.1:1", files))


def test_the_server_is_down(tmp_path: Path) -> None:
    result = decrypt(configuration(tmp_path, grpc_entry(f"127.0.0.1:{free_port()}", timeout=SECONDS)))
    assert (result.status, len(result.errors.splitlines())) == (6, 2)
    assert "it cannot be reached: " in result.errors
    assert "Connection refused" in result.errors
    assert "No such file or directory" in cause(tmp_path, grpc_entry(f"unix://{tmp_path}/none", timeout=SECONDS))


def test_grpcio_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    text = cause(tmp_path, grpc_entry("127.0.0.1:1"))
    assert text.startswith("the Python module grpc is not installed: ")
    assert "-m pip install 'ctd-decoder[grpc] @ " in text


def test_the_server_does_not_answer(certificates: Certificates, tmp_path: Path) -> None:
    def sleep(request: bytes, context: grpc.ServicerContext) -> bytes:
        time.sleep(2 * SECONDS)
        return turn(request, context)

    with serving(answer=sleep) as server:
        result = decrypt(configuration(tmp_path, grpc_entry(server.address, timeout=SECONDS)))
    assert (result.status, f"no answer within {SECONDS} seconds" in result.errors) == (6, True)


def test_nobody_accepts(certificates: Certificates, tmp_path: Path) -> None:
    """A socket that listens and says nothing, in plain text, with TLS, and when its certificate is wanted first."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        for files in (None, tls_files(root_ca_file=certificates.authority()), tls_files(insecure_skip_verify=True)):
            started = time.monotonic()
            reason = cause(tmp_path, grpc_entry(address, files, timeout=SHORT_SECONDS))
            assert "no answer within 1 seconds" in reason or "timed out" in reason
            assert time.monotonic() - started < 8 * SHORT_SECONDS


Abort = Callable[[bytes, grpc.ServicerContext], bytes]


def aborting(code: grpc.StatusCode, text: str, times: int = 1000, trailers: tuple[tuple[str, str], ...] = ()) -> Abort:
    left = [times]

    def abort(request: bytes, context: grpc.ServicerContext) -> bytes:
        if left[0] == 0:
            return turn(request, context)
        left[0] -= 1
        context.set_trailing_metadata(trailers)
        return bytes(context.abort(code, text))  # it raises

    return abort


def test_the_servers_own_errors(tmp_path: Path) -> None:
    with serving(answer=aborting(grpc.StatusCode.INTERNAL, "no access\x1b[1m\nto the key")) as server:
        result = decrypt(configuration(tmp_path, grpc_entry(server.address)))
        assert result.status == 6
        assert r"it answered INTERNAL: 'no access\x1b[1m\nto the key'" in result.errors
        assert len(server.messages) == 1
    with serving(answer=aborting(grpc.StatusCode.PERMISSION_DENIED, "no" * limits.PROVIDER_ERROR_BYTES)) as server:
        reason = cause(tmp_path, grpc_entry(server.address))
    assert reason.startswith("it answered PERMISSION_DENIED: ")
    assert len(reason) < limits.PROVIDER_ERROR_BYTES + 100


@pytest.mark.parametrize(
    ("code", "text", "trailers"),
    [
        (grpc.StatusCode.UNAVAILABLE, "restarting", ()),
        (grpc.StatusCode.CANCELLED, "stopping", ()),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "too much to do", (("ctd-decoder-busy", "1"),)),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!", ()),
    ],
)
def test_what_may_pass_is_tried_again(
    tmp_path: Path, code: grpc.StatusCode, text: str, trailers: tuple[tuple[str, str], ...]
) -> None:
    with serving(answer=aborting(code, text, 4, trailers)) as server:
        assert unwrap(configuration(tmp_path, grpc_entry(server.address, timeout=60))) == private_options()
        assert len(server.messages) == 5
    with serving(answer=aborting(code, text, trailers=trailers)) as server:
        assert text in cause(tmp_path, grpc_entry(server.address, timeout=2))
        assert len(server.messages) > 1


def test_a_certificate_that_is_not_known_is_tried_a_few_times(tmp_path: Path) -> None:
    """It may have been replaced meanwhile."""
    unknown = grpc.StatusCode.UNAUTHENTICATED
    with serving(answer=aborting(unknown, "who?", limits.PROVIDER_RETRIES)) as server:
        assert unwrap(configuration(tmp_path, grpc_entry(server.address, timeout=60))) == private_options()
    with serving(answer=aborting(unknown, "who?")) as server:
        assert cause(tmp_path, grpc_entry(server.address, timeout=60)) == "it answered UNAUTHENTICATED: 'who?'"
        assert len(server.messages) == 1 + limits.PROVIDER_RETRIES


@pytest.mark.parametrize("code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.PERMISSION_DENIED])
def test_what_does_not_pass_is_not_tried_again(tmp_path: Path, code: grpc.StatusCode) -> None:
    with serving(answer=aborting(code, "no")) as server:
        assert "no" in cause(tmp_path, grpc_entry(server.address))
        assert len(server.messages) == 1


def test_a_server_that_comes_later_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "later.sock"
    config = configuration(tmp_path, grpc_entry(f"unix://{path}", timeout=60))
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(unwrap, config)
        time.sleep(2)
        with serving(address=f"unix://{path}"):
            assert asked.result(60) == private_options()


def test_replies_that_are_none(tmp_path: Path) -> None:
    cases: list[tuple[bytes, bool, str]] = [
        (b"garbage", False, "its reply cannot be read: not JSON"),
        (b"", False, "its reply cannot be read: not JSON"),
        (b"garbage", True, "its reply is not a message of the keyprovider service"),
        (b"", True, "its reply cannot be read: not JSON"),
        (bytes(limits.PROVIDER_MESSAGE_BYTES), False, "its reply cannot be read: not JSON"),
        (bytes(limits.PROVIDER_MESSAGE_BYTES + 100), False, "a message is too large"),
        (reply(b"{}").encode(), False, "it opened the wrapped key to malformed private options"),
    ]
    for answer, raw, text in cases:
        with serving(answer=lambda *_, answer=answer: answer, raw=raw) as server:
            assert cause(tmp_path, grpc_entry(server.address)).startswith(text)


def test_the_wrong_key(tmp_path: Path) -> None:
    with serving(answer=lambda *_: reply(private_options(symmetric_key=bytes(32))).encode()) as server:
        result = decrypt(configuration(tmp_path, grpc_entry(server.address)))
    assert (result.status, "its HMAC differs" in result.errors) == (5, True)


def test_another_service(tmp_path: Path) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        assert cause(tmp_path, grpc_entry(f"127.0.0.1:{port}")).startswith("it answered UNIMPLEMENTED: ")
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "grpc_proxy"])
def test_no_proxy_is_used(variable: str, tmp_path: Path) -> None:
    nowhere = {variable: f"http://127.0.0.1:{free_port()}", "no_proxy": "", "no_grpc_proxy": ""}
    with serving() as server:
        result = decrypt(configuration(tmp_path, grpc_entry(server.address)), environment=nowhere)
    assert result == (0, PLAINTEXT, "")


def test_the_command_does_not_see_how_grpc_was_silenced(tmp_path: Path) -> None:
    """A provider that is asked after a server was."""
    providers = {
        **grpc_entry(f"127.0.0.1:{free_port()}", timeout=SECONDS),
        "next": {"cmd": {"path": "/bin/sh", "args": ["-c", "echo [$GRPC_VERBOSITY] >&2; exit 1"]}, "aliases": [NAME]},
    }
    assert "saying '[]'" in decrypt(configuration(tmp_path, providers)).errors
