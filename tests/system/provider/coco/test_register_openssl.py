"""A key broker accepts what is signed with a key that openssl made."""

from __future__ import annotations

import subprocess
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ed25519

from decoder.provider.services.coco.kbs.register import Registrar
from tests.support.coco.register import KEY, KID, administered, options_of
from tests.support.network.loopback import Authority


def test_registers_with_a_key_that_openssl_made(tmp_path: Path) -> None:
    file = tmp_path / "openssl.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", file], check=True, timeout=60)
    public = subprocess.run(
        ["openssl", "pkey", "-in", file, "-pubout", "-outform", "DER"], check=True, timeout=60, capture_output=True
    )
    authority = Authority(tmp_path)
    with administered(authority) as server:
        server.admin = ed25519.Ed25519PublicKey.from_public_bytes(public.stdout[-32:])
        Registrar({**options_of(server, authority, tmp_path), "kbs-auth-key": str(file)}).register(KID, KEY)
        assert server.resources == {KID.path: KEY}
