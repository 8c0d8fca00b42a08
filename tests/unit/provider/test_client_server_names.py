"""Names of gRPC servers: `insecure-skip-verify`, and addresses that have none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from decoder.errors import ProviderFailedError
from decoder.provider.client import tls
from decoder.provider.errors import ProviderError
from tests.support.keywrap.layers import pem, private_options
from tests.support.network.certificates import key_of
from tests.support.provider.client_parts import (
    LOCAL,
    NO_CERTIFICATE,
    Certificates,
    cause,
    configuration,
    free_port,
    grpc_entry,
    serving,
    tls_files,
    unwrap,
)

SECONDS = 1  # the time limit is what is waited for


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def local(certificates: Certificates) -> Path:
    return certificates.issue(*LOCAL)


@pytest.mark.parametrize("names", [LOCAL, ("kms.test",), ("*.kms.test",), ("192.0.2.1",), ("spiffe://kms",), ()])
def test_insecure_skip_verify(names: str, certificates: Certificates, tmp_path: Path) -> None:
    with serving(certificate=certificates.issue(*names, authority="others")) as server:
        config_file = configuration(tmp_path, grpc_entry(server.address, tls_files(insecure_skip_verify=True)))
        assert unwrap(config_file) == private_options()


def test_insecure_skip_verify_with_a_client_certificate(
    certificates: Certificates, local: Path, tmp_path: Path
) -> None:
    ours = certificates.issue("node")
    with serving(certificate=local, client_authority=certificates.authority()) as server:
        files = tls_files(insecure_skip_verify=True, certificate=ours)
        assert unwrap(configuration(tmp_path, grpc_entry(server.address, files))) == private_options()
        missing = grpc_entry(server.address, tls_files(insecure_skip_verify=True))
        assert cause(tmp_path, missing).startswith(NO_CERTIFICATE)


def test_insecure_skip_verify_does_not_pardon_the_past(certificates: Certificates, tmp_path: Path) -> None:
    with serving(certificate=certificates.issue(*LOCAL, days=-1)) as server:
        reason = cause(tmp_path, grpc_entry(server.address, tls_files(insecure_skip_verify=True)))
    assert reason == "its certificate has expired; insecure-skip-verify does not accept that"


def test_insecure_skip_verify_needs_a_name(certificates: Certificates, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(x509.Name([]), x509.Name([]), key.public_key(), 1, now, now + timedelta(1))
    path = tmp_path / "nameless.pem"
    path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    key_of(path).write_bytes(pem(key))
    with serving(certificate=path) as server:
        reason = cause(tmp_path, grpc_entry(server.address, tls_files(insecure_skip_verify=True)))
    assert reason == "its certificate has no name"


def test_insecure_skip_verify_of_a_server_that_is_down(tmp_path: Path) -> None:
    reason = cause(tmp_path, grpc_entry(f"127.0.0.1:{free_port()}", tls_files(insecure_skip_verify=True)))
    assert reason == "it cannot be reached: Connection refused"


@pytest.mark.parametrize(
    ("address", "endpoint"),
    [
        ("kms.example", ("kms.example", 443)),
        ("dns:///kms.example", ("kms.example", 443)),
        ("dns:kms.example:8443", ("kms.example", 8443)),
        ("[::1]", ("::1", 443)),
        ("ipv6:[::1]:8443", ("::1", 8443)),
        ("unix:///run/kms.sock", ("/run/kms.sock", None)),
        ("unix:kms.sock", ("kms.sock", None)),
    ],
)
def test_the_handshake_is_with_the_server_that_grpc_means(address: str, endpoint: tuple[str, int | None]) -> None:
    """As in gRPC's naming of servers, without a port it is 443."""
    assert tls._endpoint(address) == endpoint


def test_a_certificate_that_cannot_be_read() -> None:
    with pytest.raises(ProviderError, match="its certificate cannot be read"):
        tls._name_in(b"junk")


def test_an_address_that_is_none(tmp_path: Path) -> None:
    for address in ("http://localhost:1", "localhost:port", "localhost:70000"):
        told = cause(tmp_path, grpc_entry(address, timeout=SECONDS))
        assert told.startswith(("it cannot be reached", "no answer"))
        told = cause(tmp_path, grpc_entry(address, {}, timeout=SECONDS))
        assert "has a port that is not a number" in told or address.startswith("http")


def test_a_port_of_thousands_of_digits(tmp_path: Path) -> None:
    address = "localhost:" + "1" * 5000  # int() raises ValueError for so many
    with pytest.raises(ProviderFailedError, match="has a port that is not a number"):
        unwrap(configuration(tmp_path, grpc_entry(address, {}, timeout=SECONDS)))
