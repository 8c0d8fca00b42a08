"""Which authorities are trusted where OpenSSL's own place is not there, as on Fedora and Alpine with our packages."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from decoder.node import authorities
from decoder.registry.certificates import tls_context
from tests.support.network.certificates import issue

NOWHERE = ssl.get_default_verify_paths()._replace(cafile="", capath="")


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle with one authority, the second place that is looked into; OpenSSL's own is not there."""
    path = tmp_path / "bundle.pem"
    path.write_bytes(issue("authority").certificate)
    monkeypatch.setattr(authorities, "_BUNDLES", (str(tmp_path / "absent"), str(path)))
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: NOWHERE)
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", lambda *_: None)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    return path


def trusted() -> int:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authorities.trust_system(context)
    return len(context.get_ca_certs())


@pytest.mark.usefixtures("bundle")
def test_the_first_bundle_that_is_there_is_trusted() -> None:
    assert trusted() == 1


@pytest.mark.usefixtures("bundle")
def test_registries_are_trusted_likewise() -> None:
    assert len(tls_context("registry.example", True).get_ca_certs()) == 1


def test_registries_have_the_authorities_of_the_system_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", lambda *_: loaded.append(True))
    tls_context("registry.example", True)
    assert len(loaded) == 1


@pytest.mark.usefixtures("bundle")
@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_who_names_a_place_gets_no_other(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "/nonexistent")
    assert trusted() == 0


def test_the_place_of_openssl_is_enough(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = NOWHERE._replace(cafile=str(bundle))
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: found)
    assert trusted() == 0  # what OpenSSL loaded itself, which the fixture keeps from it


def test_a_damaged_bundle_is_an_error(bundle: Path) -> None:
    bundle.write_text("no certificate")
    with pytest.raises(ssl.SSLError):
        trusted()
