"""A key broker accepts what is signed with a key that openssl made."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from decoder.provider.services.coco.kbs.register import Registrar
from tests.support.kbs_server import KbsServer
from tests.support.loopback import Authority
from tests.support.register import ADMIN, KEY, KID, pkcs8
from tests.support.serving import write_key


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def server(authority: Authority) -> Iterator[KbsServer]:
    with KbsServer(authority.server_context("127.0.0.1")) as server:
        server.admin = ADMIN.public_key()
        yield server


@pytest.fixture
def options(server: KbsServer, authority: Authority, tmp_path: Path) -> dict[str, str]:
    """Those that an administrator gives."""
    key = write_key(tmp_path / "admin.pem", pkcs8(ADMIN))
    return {"kbs": server.url, "kbs-ca": str(authority.file), "kbs-auth-key": str(key)}


def test_registers_with_a_key_that_openssl_made(server: KbsServer, options: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "openssl.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", file], check=True, timeout=60)
    public = subprocess.run(
        ["openssl", "pkey", "-in", file, "-pubout", "-outform", "DER"], check=True, timeout=60, capture_output=True
    )
    server.admin = ed25519.Ed25519PublicKey.from_public_bytes(public.stdout[-32:])
    Registrar({**options, "kbs-auth-key": str(file)}).register(KID, KEY)
    assert server.resources == {KID.path: KEY}
