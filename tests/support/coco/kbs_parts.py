"""A guest of a key broker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwcrypto.jwk import JWK

from decoder import limits
from decoder.keywrap.kid import parse_kid
from decoder.provider.errors import ProviderError
from decoder.provider.services.coco.kbs import source as kbs
from tests.support.coco.kbs_server import issue_token
from tests.support.keywrap.layers import ec_key, pem

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.network.loopback import Authority

KID = parse_kid("kbs:///default/image_key/nginx")
KEY = bytes(range(100, 132))
TEE_KEY = ec_key(ec.SECP521R1)


class Guest:
    """The files of a guest.

    Attributes:
        token: what the broker gave it.
        options: that name the files, and the broker's authority.
    """

    def __init__(self, directory: Path, authority: Authority, key: Any = TEE_KEY, seconds: float = 300) -> None:
        self.key = key
        self.token = issue_token(JWK.from_pyca(key.public_key()).export_public(as_dict=True), seconds)
        (directory / "token").write_text(self.token + "\n")
        (directory / "tee.pem").touch(0o600)
        (directory / "tee.pem").write_bytes(pem(key))
        self.options = {
            "kbs-token": str(directory / "token"),
            "tee-key": str(directory / "tee.pem"),
            "kbs-ca": str(authority.file),
        }


def fetch(url: str, options: dict[str, str]) -> bytes:
    return kbs.create(url, options).key(KID, limits.COCO_SOURCE_SECONDS)


def failure(url: str, options: dict[str, str], *secrets: str) -> str:
    with pytest.raises(ProviderError) as caught:
        fetch(url, options)
    message = str(caught.value)
    shown = message + repr(caught.value)
    for secret in (*secrets, "PRIVATE KEY", KEY.hex(), repr(KEY)[2:-1], pem(TEE_KEY).decode().splitlines()[1]):
        assert secret not in shown
    assert "\n" not in message
    assert len(message) < limits.PROVIDER_ERROR_BYTES
    return message
