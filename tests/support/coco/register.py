"""Storing layer keys with a key broker."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from decoder.keywrap.kid import parse_kid
from tests.support.coco.kbs_server import KbsServer
from tests.support.provider.serving import write_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.network.loopback import Authority

KID = parse_kid("kbs:///default/image_key/nginx")
KEY = bytes(range(100, 132))
ADMIN = ed25519.Ed25519PrivateKey.generate()


def pkcs8(key: ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@contextmanager
def administered(authority: Authority) -> Iterator[KbsServer]:
    """Run a broker that knows its administrator's key."""
    with KbsServer(authority.server_context("127.0.0.1")) as server:
        server.admin = ADMIN.public_key()
        yield server


def options_of(server: KbsServer, authority: Authority, directory: Path) -> dict[str, str]:
    """Return those that an administrator gives, with a key file in a directory."""
    key = write_key(directory / "admin.pem", pkcs8(ADMIN))
    return {"kbs": server.url, "kbs-ca": str(authority.file), "kbs-auth-key": str(key)}
