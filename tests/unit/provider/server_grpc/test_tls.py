"""The TLS of the gRPC server, and its files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from tests.support.network.certificates import issue, tls_options
from tests.support.provider.server_grpc_parts import LOOPBACK, SERVICE, WRAP, connected, credentials, failure
from tests.support.provider.serving import (
    Server,
    ask,
    execute,
    message,
    wait_for,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("certificates")
    for authority, parts in (("ca", ("server", "client")), ("other-ca", ("stranger",))):
        own = issue(authority)
        own.write(directory / f"{authority}.pem")
        for name in parts:
            issue(name, own, ["localhost"] if name == "server" else None).write(directory / f"{name}.pem")
    return directory


def test_tls(local: tuple[str, ...], tmp_path: Path, certificates: Path) -> None:
    with Server(tmp_path, *local, "--listen", "0.0.0.0:0", *tls_options(certificates)) as server:
        with connected(server, credentials(certificates)) as channel:
            assert ask(channel, "WrapKey", WRAP)
        for refused in (None, credentials(certificates, ca="other-ca")):
            with connected(server, refused) as channel:
                assert failure(channel, f"/{SERVICE}/WrapKey", message(WRAP))[0] == grpc.StatusCode.UNAVAILABLE
        wait_for(lambda: len(server.audit) == 3)
    assert "--client-ca requires a certificate" in server.log
    assert [line["operation"] for line in server.audit] == ["wrap", "handshake", "handshake"]


def test_mutual_tls(local: tuple[str, ...], tmp_path: Path, certificates: Path) -> None:
    with Server(tmp_path, *local, "--listen", "0.0.0.0:0", *tls_options(certificates, client_ca="ca.pem")) as server:
        with connected(server, credentials(certificates, "client")) as channel:
            assert ask(channel, "WrapKey", WRAP)
        for refused in (None, credentials(certificates), credentials(certificates, "stranger")):
            with connected(server, refused) as channel:
                assert failure(channel, f"/{SERVICE}/WrapKey", message(WRAP))[0] == grpc.StatusCode.UNAVAILABLE
    assert "warning" not in server.log
    called, *handshakes = server.audit
    assert (called["operation"], called["client"]) == ("wrap", "cn:client")
    assert {(line["operation"], line["outcome"], line["reason"]) for line in handshakes} == {
        ("handshake", "failed", "denied")
    }
    assert all(line["address"].startswith("ipv4:127.0.0.1:") for line in handshakes)
    causes = {line["cause"].partition(" (")[0] for line in handshakes}
    assert causes == {
        "TLS: WRONG_VERSION_NUMBER",
        "the client sent no certificate",
        "the client's certificate is not accepted: it is not from a trusted authority",
    }


def test_tls_files_are_read_again_when_they_change(
    local: tuple[str, ...], tmp_path: Path, certificates: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Connections stay; the next handshake uses the new files, or the earlier ones while those cannot be used."""
    files = tmp_path_factory.mktemp("tls")
    for suffix in ("key", "pem"):
        (files / f"server.{suffix}").write_bytes((certificates / f"server.{suffix}").read_bytes())
    (files / "ca.pem").write_bytes((certificates / "ca.pem").read_bytes())
    with (
        Server(tmp_path, *local, *LOOPBACK, *tls_options(files, client_ca="ca.pem")) as server,
        connected(server, credentials(certificates, "client")) as old,
    ):
        assert ask(old, "WrapKey", WRAP)
        (files / "server.pem").write_text("garbage")
        wait_for(lambda: "cannot be used; the earlier ones stay" in server.log)
        with connected(server, credentials(certificates, "client")) as channel:
            assert ask(channel, "WrapKey", WRAP)
        (files / "server.pem").write_bytes((certificates / "server.pem").read_bytes())
        wait_for(lambda: "the files of tls have changed and were read again" in server.log)
        assert ask(old, "WrapKey", WRAP)
        (files / "ca.pem").write_bytes((certificates / "other-ca.pem").read_bytes())
        wait_for(lambda: server.log.count("were read again") == 2)
        with connected(server, credentials(certificates, "client")) as channel:
            assert failure(channel, f"/{SERVICE}/WrapKey", message(WRAP))[0] == grpc.StatusCode.UNAVAILABLE
        with connected(server, credentials(certificates, "stranger")) as channel:
            assert ask(channel, "WrapKey", WRAP)
        # The open connection is of an authority that is not trusted any more.
        code, _ = failure(old, f"/{SERVICE}/WrapKey", message(WRAP))
        assert code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE)


def test_a_certificate_that_expires_soon_is_told(local: tuple[str, ...], tmp_path: Path, certificates: Path) -> None:
    prelude = "limits.CERTIFICATE_WARNING_SECONDS = 10 * 24 * 3600"
    with Server(tmp_path, *local, *LOOPBACK, *tls_options(certificates), prelude=prelude) as server:
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
