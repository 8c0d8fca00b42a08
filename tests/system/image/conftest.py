"""Keys and images for the tests of `ctd-decoder image`, beside those of the system tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.image import images
from tests.support.image.command import run
from tests.support.image.images import Layout
from tests.support.keys.parties import EMAIL, Party
from tests.support.keys.pgp_home import GnupgHome

if TYPE_CHECKING:
    from tests.support.keys.keypairs import KeyPair


@pytest.fixture(scope="session")
def gnupg() -> Iterator[GnupgHome]:
    home = GnupgHome()
    try:
        home.make_key(f"Images <{EMAIL}>", "rsa")
        yield home
    finally:
        home.close()


@pytest.fixture(scope="session")
def parties(keys: dict[str, KeyPair], gnupg: GnupgHome, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Party]:
    """One for each protocol, by its name."""
    directory = tmp_path_factory.mktemp("parties")
    certificate, secret = directory / "cert.pem", directory / "secret.gpg"
    private = keys["rsa4096"].private
    run("openssl", "req", "-x509", "-new", "-key", private, "-subj", "/O=Works/CN=image", "-out", certificate)
    secret.write_bytes(gnupg.secret(EMAIL))
    return {
        "jwe": Party.jwe(keys["rsa2048"]),
        "pkcs7": Party.pkcs7(keys["rsa4096"], certificate),
        "pgp": Party(
            f"pgp:{EMAIL}",
            ["--key", str(secret)],
            ["--decryption-key", str(secret)],
            {"gpg-privatekeys": [secret.read_bytes()], "gpg-privatekeys-passwords": [b""]},
        ),
    }


@pytest.fixture(scope="session")
def gzipped(plain: dict[str, Layout]) -> Layout:
    """The plain image, its layers compressed."""
    return plain[images.GZIP]


@pytest.fixture
def target(tmp_path: Path) -> Layout:
    """Where an image may be written to."""
    return Layout(tmp_path / "target")
